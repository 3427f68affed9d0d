"""RDMA devices of a node, from /sys/class/infiniband, and which of them belongs to a network interface. Pure.

File formats: Linux, Documentation/ABI/stable/sysfs-class-infiniband and testing/sysfs-class-infiniband-gid-attrs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from clusterctl.facts import parse
from clusterctl.facts.fact import Fact, Unknown

INFINIBAND = "InfiniBand"
ETHERNET = "Ethernet"
"""The values of `link_layer`; Ethernet is RoCE (or iWARP, which has no GIDs to speak of)."""

ROCE_V2 = "RoCE v2"
"""The value of `gid_attrs/types/N` that routable RoCE needs; version 1 reads `IB/RoCE v1`."""


@dataclass(frozen=True)
class Gid:
    """One used entry of a port's GID table."""

    index: int
    address: IPv6Address
    type: str | None
    """`RoCE v2` or `IB/RoCE v1`; None where the kernel does not say."""
    interface: str | None
    """Network interface that it belongs to; only RoCE ports have one."""

    @property
    def ipv4(self) -> IPv4Address | None:
        """The IPv4 address that a RoCE GID stands for."""
        return self.address.ipv4_mapped


@dataclass(frozen=True)
class RdmaPort:
    """One port of a host channel adapter (HCA)."""

    device: str
    port: int
    state: str
    """DOWN, INIT, ARMED, ACTIVE …"""
    phys_state: str
    """Polling, Disabled, LinkUp …"""
    link_layer: str
    """InfiniBand or Ethernet."""
    rate: str
    """As the kernel says it: `400 Gb/sec (4X NDR)`."""
    interfaces: tuple[str, ...]
    """Network interfaces on this port: those of its GIDs, else those of its PCI function."""
    gids: tuple[Gid, ...]

    @property
    def name(self) -> str:
        """As NCCL_IB_HCA takes it: `mlx5_0:1`."""
        return f"{self.device}:{self.port}"

    @property
    def active(self) -> bool:
        """Whether it carries data."""
        return self.state == "ACTIVE"


def hca_of(ports: Sequence[RdmaPort], interface: str) -> RdmaPort | None:
    """The port that carries `interface`; of several (a bond) the first ACTIVE one. None: no RDMA on it."""
    candidates = [port for port in ports if interface in port.interfaces]
    return next((port for port in candidates if port.active), candidates[0] if candidates else None)


def rdma(found: Mapping[str, parse.Section]) -> Fact[tuple[RdmaPort, ...]]:
    """Every port of every RDMA device, in order; None where the kernel has no RDMA support loaded."""
    output = parse.text(found, "rdma")
    if not isinstance(output, str):
        return output
    files = dict(row.split("\t", 1) for row in output.splitlines() if "\t" in row)
    found_ports = {(m[1], int(m[2])) for path in files if (m := re.match(r"([^/]+)/ports/(\d{1,4})/", path))}
    places = sorted(found_ports, key=_natural)
    of_function: dict[str, dict[str, str]] = defaultdict(dict)
    for path, value in files.items():
        if match := re.fullmatch(r"([^/]+)/device/net/([^/]+)/dev_port", path):
            of_function[match[1]][match[2]] = value
    try:
        return tuple(_port(files, of_function[device], places, device, port) for device, port in places)
    except ValueError as error:
        return Unknown(f"/sys/class/infiniband holds what is no RDMA port: {error}")


def _port(
    files: Mapping[str, str],
    of_function: Mapping[str, str],
    places: Sequence[tuple[str, int]],
    device: str,
    port: int,
) -> RdmaPort:
    base = f"{device}/ports/{port}"
    gids = tuple(_gids(files, base))
    # A GID's interface is the one in use (a bond, a VLAN). InfiniBand GIDs name none: then those of the PCI function,
    # of which a function with two ports (ConnectX-3) tells by dev_port (from 0) which is on which port (from 1).
    several = sum(name == device for name, _ in places) > 1
    own = [name for name, dev_port in sorted(of_function.items()) if not several or dev_port == str(port - 1)]
    return RdmaPort(
        device=device,
        port=port,
        state=_meaning(files.get(f"{base}/state", "")),
        phys_state=_meaning(files.get(f"{base}/phys_state", "")),
        link_layer=files.get(f"{base}/link_layer", ""),
        rate=files.get(f"{base}/rate", ""),
        interfaces=tuple(dict.fromkeys([*(gid.interface for gid in gids if gid.interface), *own])),
        gids=gids,
    )


def _gids(files: Mapping[str, str], base: str) -> list[Gid]:
    pattern = re.compile(rf"{re.escape(base)}/gids/(\d{{1,4}})")
    rows = [(int(match[1]), value) for path, value in files.items() if (match := pattern.fullmatch(path))]
    return [
        Gid(
            index,
            IPv6Address(value),
            files.get(f"{base}/gid_attrs/types/{index}"),
            files.get(f"{base}/gid_attrs/ndevs/{index}"),
        )
        for index, value in sorted(rows)
    ]


def _natural(place: tuple[str, int]) -> list[tuple[int, str]]:
    """mlx5_2 before mlx5_10."""
    return [(int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d{1,9})", f"{place[0]}:{place[1]}")]


def _meaning(value: str) -> str:
    """`4: ACTIVE` → `ACTIVE`."""
    return value.partition(": ")[2] or value
