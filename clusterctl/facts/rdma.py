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


DEFAULT_PREFIX = 0xFE80 << 48
"""The prefix of a subnet that nobody gave one."""


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
    """InfiniBand or Ethernet; `Unspecified` for other transports (EFA)."""
    rate: str
    """As the kernel says it: `400 Gb/sec (4X NDR)`."""
    interfaces: tuple[str, ...]
    """Network interfaces on this port: those of its GIDs, else those of its PCI function."""
    gids: tuple[Gid, ...]
    lid: int | None = None
    """Its address in the InfiniBand subnet; None where the kernel does not say, and on Ethernet."""
    sm_lid: int | None = None
    """That of the subnet manager."""
    rnic: bool = False
    """Whether it speaks iWARP (node_type `4: RNIC`)."""
    software: bool = False
    """Whether it is none of its own but made by software over a network interface (rxe, siw)."""
    virtual_function: bool = False
    """Whether it is a virtual function (SR-IOV), seen where its own adapter is; in a virtual machine it is not."""
    nvswitch: bool = False
    """Whether it manages NVSwitches (HGX B200), by its vital product data, which only root may read."""
    image_guid: str = ""
    """The same for all functions of one adapter."""

    @property
    def name(self) -> str:
        """As NCCL_IB_HCA takes it: `mlx5_0:1`."""
        return f"{self.device}:{self.port}"

    @property
    def active(self) -> bool:
        """Whether it carries data."""
        return self.state == "ACTIVE"

    @property
    def subnet(self) -> tuple[int, int | None] | None:
        """The InfiniBand subnet that it is in, by the GIDs' prefix and the subnet manager; None on Ethernet, and where
        neither tells: fe80:: is every subnet's prefix as long as nobody sets one."""
        if self.link_layer != INFINIBAND or not self.gids:
            return None
        prefix = int(self.gids[0].address) >> 64
        return (prefix, self.sm_lid) if self.sm_lid or prefix != DEFAULT_PREFIX else None

    @property
    def gbit_per_s(self) -> float:
        """The port's rate in Gbit/s, from `400 Gb/sec (4X NDR)`; 0 where the kernel says none."""
        found = re.match(r"[\d.]{1,12}", self.rate)
        return float(found.group()) if found else 0.0


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
    own += [parent] if (parent := files.get(f"{device}/parent")) else []
    return RdmaPort(
        device=device,
        port=port,
        state=_meaning(files.get(f"{base}/state", "")),
        phys_state=_meaning(files.get(f"{base}/phys_state", "")),
        link_layer=files.get(f"{base}/link_layer", ""),
        rate=files.get(f"{base}/rate", ""),
        interfaces=tuple(dict.fromkeys([*(gid.interface for gid in gids if gid.interface), *own])),
        gids=gids,
        lid=_lid(files.get(f"{base}/lid", "")),
        sm_lid=_lid(files.get(f"{base}/sm_lid", "")),
        rnic=_meaning(files.get(f"{device}/node_type", "")) == "RNIC",
        software=f"{device}/software" in files or f"{device}/parent" in files,
        virtual_function=f"{device}/vf" in files,
        nvswitch=f"{device}/nvswitch" in files,
        image_guid=files.get(f"{device}/sys_image_guid", ""),
    )


def _lid(value: str) -> int | None:
    """`0x1f`; None for 0x0, which an Ethernet port has, and 0xffff, which is none."""
    number = int(value, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,8}", value) else 0
    return number if number not in (0, 0xFFFF) else None


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
