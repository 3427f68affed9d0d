"""Nodes: whether this cluster runs there, and which of them stand out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterctl.agent.paths import container_name
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.records import EngineFacts
from clusterctl.hosts.engine.commands import DOCKER, EngineCommands
from clusterctl.inventory.model import Inventory

UNREAD_WHY = "what could not be read cannot be assumed to be right"
"""Why an unknown value matters that nothing can be decided without."""
UNCHECKED_WHY = "what could not be read may be wrong"
"""Why any other unknown value matters."""
UNREAD_FIX = "log in to the node, repeat what failed (named above) to see why, then run clusterctl check again"
"""What to do about a value that could not be read."""


def runs_ours(node: NodeFacts, inventory: Inventory) -> bool:
    """Whether this cluster's container runs on the node, or may: then ports, memory and GPUs may be its own."""
    if isinstance(node.containers, Unknown):
        return isinstance(node.engine, EngineFacts)
    name = container_name(inventory.cluster)
    return any(container.running and container.name == name for container in node.containers)


def minority(groups: Mapping[Any, list[str]]) -> tuple[str, ...]:
    """The nodes outside the largest group; the first group wins a tie, so of two nodes the second is named."""
    largest = max(groups.values(), key=len)
    return tuple(name for names in groups.values() if names is not largest for name in names)


def commands_of(facts: ClusterFacts) -> EngineCommands:
    """The nodes' engine in what is not about one of them: the first node's; Docker's where no node answered."""
    return next((node.commands for node in facts.nodes.values()), DOCKER)
