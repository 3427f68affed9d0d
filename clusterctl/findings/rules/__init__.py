"""From what was asked for and what is there to findings. Pure."""

from __future__ import annotations

from clusterctl.facts.model import ClusterFacts
from clusterctl.findings.finding import Finding
from clusterctl.findings.rules import accelerators, image, model, network, nodes
from clusterctl.inventory.model import Inventory

RULES = (
    nodes.unreachable,
    nodes.engine,
    image.image,
    nodes.strangers_name,
    network.addresses,
    model.model,
    model.shards,
    model.config_differs,
    accelerators.accelerators,
    network.ports,
)
"""Every rule, in the order in which findings are shown."""


def check(inventory: Inventory, facts: ClusterFacts) -> tuple[Finding, ...]:
    """Every finding, in the order of RULES and of the inventory's nodes."""
    return tuple(finding for rule in RULES for finding in rule(inventory, facts))
