"""Facts of machines from short notations in YAML (fixtures/findings*.yaml): system, GPU and RDMA."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv6Address
from typing import Any

from clusterctl.facts.model import Unknown
from clusterctl.facts.rdma import Gid, RdmaPort


def fact(value: Any, read: Any) -> Any:
    """null is absent, {unknown: reason} is Unknown, anything else is read."""
    if isinstance(value, Mapping) and set(value) == {"unknown"}:
        return Unknown(value["unknown"])
    return None if value is None else read(value)


def rdma(value: Any) -> Any:
    """`mlx5_0:1` → what differs from an ACTIVE RoCE port on eth1 with one GID of version 2."""
    return fact(value, lambda ports: tuple(_port(name, said or {}) for name, said in ports.items()))


def _port(name: str, said: Mapping[str, Any]) -> RdmaPort:
    device, _, port = name.partition(":")
    layer = said.get("link_layer", "Ethernet")
    gids = said.get("gids", {"::ffff:10.77.0.11": "RoCE v2"} if layer == "Ethernet" else {"fe80::1": None})
    on = tuple(said.get("interfaces", ["eth1"]))
    return RdmaPort(
        device=device,
        port=int(port),
        state=said.get("state", "ACTIVE"),
        phys_state=said.get("phys_state", "LinkUp"),
        link_layer=layer,
        rate=said.get("rate", "400 Gb/sec (4X NDR)"),
        interfaces=on,
        gids=tuple(
            Gid(index, IPv6Address(address), kind, on[0] if on and kind else None)
            for index, (address, kind) in enumerate(gids.items())
        ),
    )
