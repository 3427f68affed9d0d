"""What listens on all interfaces is reachable from everywhere that a public address is."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.exposure import public_addresses
from clusterctl.inventory.model import Inventory

PUBLIC = Code(
    name="address-public",
    severity=WARNING,
    title="A node has a public address",
    runbook="security.md",
    seen="the node has a public address: {addresses}",
    why="PyTorch's TCPStore and others listen on all interfaces, and whoever reaches them may run code",
    fix="clusterctl firewall prints rules for the node; waive address-public when a firewall is in place",
    note="An address behind another machine's NAT is not seen.",
)


@rule(Section.EXPOSURE, PUBLIC)
def address_public(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Nodes with an address that is routed on the Internet."""
    for name, node in facts.nodes.items():
        if public := public_addresses(node):
            yield PUBLIC.found(name, addresses=", ".join(f"{item.address} on {item.interface}" for item in public))
