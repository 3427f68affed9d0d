"""A node's address in the private network, and its accelerators."""

from __future__ import annotations

from ipaddress import IPv4Address

from clusterctl.deployment.gpus import usable_gpus
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.records import InterfaceAddress
from clusterctl.inventory.model import Inventory

LOOPBACK = InterfaceAddress("lo", IPv4Address("127.0.0.1"))
"""Where the processes of a single node meet that has no network."""


def private_address(inventory: Inventory, name: str, facts: NodeFacts) -> InterfaceAddress | None:
    """The node's address in the private network: the declared one, or the only one inside the CIDR; else None. A single
    node without a network has loopback."""
    if isinstance(facts.addresses, Unknown):
        return None
    declared, cidr = next(node.address for node in inventory.nodes if node.name == name), inventory.cidr
    if cidr is None and declared is None:
        return LOOPBACK
    inside = [item for item in facts.addresses if cidr is None or item.address in cidr]
    wanted = [item for item in inside if declared in (None, item.address)]
    return wanted[0] if len({item.address for item in wanted}) == 1 else None


def addresses_of(facts: NodeFacts) -> tuple[InterfaceAddress, ...]:
    """The node's addresses; none where they could not be read."""
    return () if isinstance(facts.addresses, Unknown) else facts.addresses


def accelerators_per_node(inventory: Inventory, facts: ClusterFacts) -> int:
    """Accelerators used on each node: declared, or what the nodes have."""
    declared = inventory.accelerator.per_node
    if isinstance(declared, int):
        return declared
    counts = [len(usable_gpus(inventory, n, node)) for n, node in facts.nodes.items() if isinstance(node.gpus, tuple)]
    return min(counts, default=0)
