"""A node's address in the private network, and its accelerators."""

from __future__ import annotations

from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.records import InterfaceAddress
from clusterctl.inventory.model import Inventory


def private_address(inventory: Inventory, name: str, facts: NodeFacts) -> InterfaceAddress | None:
    """The node's address in the private network: the declared one, or the only one inside the CIDR; else None."""
    if isinstance(facts.addresses, Unknown):
        return None
    declared = next(node.address for node in inventory.nodes if node.name == name)
    inside = [item for item in facts.addresses if item.address in inventory.network.cidr]
    wanted = [item for item in inside if declared in (None, item.address)]
    return wanted[0] if len({item.address for item in wanted}) == 1 else None


def accelerators_per_node(inventory: Inventory, facts: ClusterFacts) -> int:
    """Accelerators used on each node: declared, or what the nodes have."""
    declared = inventory.accelerator.per_node
    if isinstance(declared, int):
        return declared
    counts = [len(node.gpus) for node in facts.nodes.values() if isinstance(node.gpus, tuple)]
    return min(counts, default=0)
