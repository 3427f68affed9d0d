"""Rules for the private network and the nodes' addresses in it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from clusterctl.inventory.issue import Issue, KeyPath, quoted
from clusterctl.inventory.raw import address, dig, items, network, text

NON_PUBLIC = tuple(
    IPv4Network(cidr)
    for cidr in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",  # shared address space: never routed on the Internet, although is_private is False
        "169.254.0.0/16",  # link-local: two machines joined by a cable
        "198.18.0.0/15",
        "192.0.2.0/24",
        "198.51.100.0/24",
        "203.0.113.0/24",
    )
)
"""A list instead of `is_private`, which looks at the first and last address only in some Python versions: 0.0.0.0/0
would be private."""


UNUSABLE = tuple(IPv4Network(cidr) for cidr in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4"))
"""Networks in which no node can have an address: this host, loopback, multicast, reserved."""


def declared_network(data: object) -> IPv4Network | None:
    """The nodes' network, if it is one."""
    given = text(dig(data, "network", "cidr"))
    found = network(given)
    return found if isinstance(found, IPv4Network) and "/" in (given or "") else None


# Addresses.


def network_given(data: object) -> Iterator[Issue]:
    """Several nodes need a network between them; one does not."""
    if isinstance(data, dict) and dig(data, "network") is None and len(items(dig(data, "nodes"))) != 1:
        yield Issue(("network",), "is missing", "The private network between the nodes")


def cidr(data: object) -> Iterator[Issue]:
    """The network itself: usable, private, and large enough."""
    place = ("network", "cidr")
    given = text(dig(data, *place))
    found = network(given)
    if given is None or found is None:
        return
    if isinstance(found, IPv6Network):
        yield Issue(place, f"{quoted(given)} is an IPv6 network; only IPv4 is supported")
        return
    nodes = len(items(dig(data, "nodes")))
    hosts = found.num_addresses - (2 if found.prefixlen < 31 else 0)  # /31 is a link between two, without broadcast
    if "/" not in given:
        yield Issue(place, f"{quoted(given)} has no prefix length", f"add one, such as {given}/24")
    elif str(ip_address(given.split("/")[0])) != str(found.network_address):
        yield Issue(place, f"{quoted(given)} has host bits set", f"did you mean {found}?")
    elif hosts < nodes:
        message = f"{quoted(given)} is too small for {nodes} nodes: it has room for {hosts}"
        yield Issue(place, message, "use a shorter prefix")
    if any(found.overlaps(unusable) for unusable in UNUSABLE):
        yield Issue(
            place, f"{quoted(given)} contains addresses that no node can have", "give the nodes' private network"
        )
    elif dig(data, "network", "allow_public") is not True and not is_private(found):
        hint = "traffic on it is unencrypted and can be abused to run code; set network.allow_public to accept that"
        yield Issue(place, f"{quoted(given)} contains public addresses", hint)


def is_private(found: IPv4Network) -> bool:
    """Whether no address of the network is routed on the Internet."""
    return any(found.subnet_of(private) for private in NON_PUBLIC)


def address_in_network(data: object) -> Iterator[Issue]:
    """A node's address must be a usable one of the declared network."""
    inside = declared_network(data)
    for index, node in enumerate(items(dig(data, "nodes"))):
        found = address(dig(node, "address"))
        place = ("nodes", index, "address")
        if isinstance(found, IPv6Address):
            yield Issue(place, f'"{found}" is an IPv6 address; only IPv4 is supported')
        elif found is not None and inside is not None:
            yield from misplaced(found, inside, place)


def misplaced(found: IPv4Address, inside: IPv4Network, place: KeyPath) -> Iterator[Issue]:
    """What keeps the address from being a node's in the network."""
    if found not in inside:
        yield Issue(place, f'"{found}" is outside network.cidr {inside}', "give the node's address in that network")
    elif inside.prefixlen < 31 and found == inside.network_address:
        yield Issue(place, f'"{found}" is the network address of {inside}, not that of a node')
    elif inside.prefixlen < 31 and found == inside.broadcast_address:
        yield Issue(place, f'"{found}" is the broadcast address of {inside}, not that of a node')


def serve_host(data: object) -> Iterator[Issue]:
    """Any IPv4 address may be given."""
    found = address(dig(data, "serve", "host"))
    if isinstance(found, IPv6Address):
        yield Issue(("serve", "host"), f'"{found}" is an IPv6 address; only IPv4 is supported')
