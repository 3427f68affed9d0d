"""Every pair of nodes, in both directions: which ports pass, by which route, how fast, and how large a packet may be.

Values, what is tried (pure), and the reading of what agent/peers.py answers (pure). peers.py's containers are started
and asked in facts/peering.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

from clusterctl.facts.fact import Unknown

Pair = tuple[str, str]
"""Two nodes by name: from the first to the second."""


@dataclass(frozen=True)
class Route:
    """How the kernel sends to a peer."""

    interface: str
    source: IPv4Address


@dataclass(frozen=True)
class End:
    """One node's end: its private address, and where its probe listened."""

    address: IPv4Address
    interface: str
    mtu: int
    """Of the interface, in bytes."""
    held: tuple[int, ...]
    """Pinned ports that something else listens on (this cluster's own containers, as a rule)."""
    ephemeral: tuple[int, ...]
    """Ports of the kernel's choice, which stand for those of NCCL, Gloo and vLLM's queues."""
    service: int
    """Port, also of the kernel's choice, that echoes and swallows bytes."""
    udp: int


@dataclass(frozen=True)
class Link:
    """One direction between two nodes."""

    ports: Mapping[int, str]
    """Port → `ok`, `refused`, `timeout`, `unreachable: …` or `other: NAME`."""
    route: Route | None
    """None: the kernel has none, or did not say."""
    largest_packet: int | None
    """Bytes of the largest IP packet that arrived unfragmented; None: no UDP packet came back at all."""
    min_us: float | None
    """Shortest of 20 round trips over TCP, in microseconds; None where nothing passes."""
    median_us: float | None
    bulk: bool | None
    """Whether 256 KiB came back whole over TCP."""


@dataclass(frozen=True)
class Pairs:
    """The network between the nodes."""

    ends: Mapping[str, End | Unknown]
    links: Mapping[Pair, Link] = field(default_factory=dict)
    gbit_per_s: Mapping[Pair, float] = field(default_factory=dict)
    """TCP throughput; empty when it was not asked for."""


def read_end(address: str, interface: str, said: Mapping[str, Any]) -> End | Unknown:
    """One node's first answer."""
    if said.get("event") != "listening":
        return Unknown(str(said.get("reason", "no answer")))
    return End(
        address=IPv4Address(address),
        interface=interface,
        mtu=int(said["mtu"]),
        held=tuple(said["held"]),
        ephemeral=tuple(said["ephemeral"]),
        service=int(said["service"]),
        udp=int(said["udp"]),
    )


def read_links(node: str, ends: Mapping[str, End], said: Mapping[str, Any]) -> Iterator[tuple[Pair, Link]]:
    """One node's answer to peers_step, about those nodes whose end is known: one that was lost after it had listened
    says nothing of the way to it."""
    for other, values in said["peers"].items():
        if other not in ends:
            continue
        route = values["route"]
        ports = {int(port): str(outcome) for port, outcome in values["ports"].items()}
        yield (
            (node, other),
            Link(
                # What holds a port may listen on another address only: silence there says nothing about the way.
                ports={p: o for p, o in ports.items() if o == "ok" or p not in ends[other].held},
                route=Route(route["interface"], IPv4Address(route["source"])) if route else None,
                largest_packet=values["largest_packet"],
                min_us=values.get("min_us"),
                median_us=values.get("median_us"),
                bulk=values.get("bulk"),
            ),
        )
