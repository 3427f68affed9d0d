"""Which of a node's addresses strangers may reach."""

from __future__ import annotations

from ipaddress import IPv4Address

from clusterctl.facts.cluster import NodeFacts
from clusterctl.facts.records import InterfaceAddress


def public_addresses(node: NodeFacts) -> tuple[InterfaceAddress, ...]:
    """The node's addresses that are routed on the Internet. Behind another machine's NAT none is seen here."""
    return (
        tuple(item for item in node.addresses if _is_public(item.address)) if isinstance(node.addresses, tuple) else ()
    )


def _is_public(address: IPv4Address) -> bool:
    return address.is_global and not address.is_multicast
