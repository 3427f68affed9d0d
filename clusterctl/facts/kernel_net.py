"""IPv4 routes and addresses from the kernel's own tables, for nodes without `ip`. Pure.

/proc/net/route prints addresses as 32-bit words in the machine's byte order, which is little-endian wherever vLLM runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from clusterctl.facts.records import InterfaceAddress

LOOPBACK = IPv4Network("127.0.0.0/8")


@dataclass(frozen=True)
class Route:
    """One IPv4 route of the main table."""

    interface: str
    destination: IPv4Network
    gateway: IPv4Address | None
    metric: int


def kernel_routes(table: str) -> tuple[Route, ...]:
    """The rows of /proc/net/route. ValueError for what is no such table."""
    rows = [row.split() for row in table.splitlines()[1:] if row.strip()]
    if any(len(row) < 8 for row in rows):
        raise ValueError("no routing table")
    return tuple(
        Route(
            interface=row[0],
            destination=IPv4Network(f"{_address(row[1])}/{_address(row[7])}", strict=False),
            gateway=_address(row[2]) if int(row[2], 16) else None,
            metric=int(row[6]),
        )
        for row in rows
    )


def kernel_addresses(fib_trie: str, routes: Sequence[Route]) -> tuple[InterfaceAddress, ...]:
    """The node's own addresses (/proc/net/fib_trie, `/32 host LOCAL`), each on the interface whose network it is in.

    The trie names no interface: the narrowest route without a gateway does. An address without one (a /32 on its own)
    is left out. ValueError for what is no trie.
    """
    local = dict.fromkeys(re.findall(r"\|-- (\d{1,3}(?:\.\d{1,3}){3})\n\s+/32 host LOCAL", fib_trie))
    direct = sorted((r for r in routes if r.gateway is None), key=lambda r: r.destination.prefixlen, reverse=True)
    found = []
    for address in map(IPv4Address, local):
        route = next((route for route in direct if address in route.destination), None)
        if address in LOOPBACK:
            found.append(InterfaceAddress("lo", address))
        elif route is not None:
            found.append(InterfaceAddress(route.interface, address, route.destination.prefixlen))
    return tuple(found)


def _address(word: str) -> IPv4Address:
    return IPv4Address(bytes.fromhex(word)[::-1])
