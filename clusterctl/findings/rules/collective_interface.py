"""NCCL's first connections leave by the interface of network.cidr."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.address import addresses_of
from clusterctl.deployment.way import Way, way_of
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.collective import NodeRun
from clusterctl.facts.fact import Unknown
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

OTHER = Code(
    name="collective-wrong-interface",
    severity=WARNING,
    title="NCCL on another interface",
    runbook="collective.md",
    seen="NCCL connects through {interface} ({address}), not through {own_interface} ({own_address})",
    why="the other nodes may not reach that address, or only by a slow path",
    fix="on the node: ip -4 addr show dev {own_interface}; one address an interface",
)


@rule(Section.COLLECTIVE, OTHER)
def collective_interface(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """NCCL's first connections leave by the interface of network.cidr."""
    ran = facts.deep.collective if facts.deep is not None else None
    if ran is None or isinstance(ran, Unknown):
        return
    for name, run in ran.nodes.items():
        way = way_of(inventory, name, facts)
        used = run.transport.bootstrap if isinstance(run, NodeRun) else None
        if used is not None and way is not None and not _expected(way, facts.nodes[name], *used):
            yield OTHER.found(
                name,
                interface=used[0],
                address=used[1],
                own_interface=way.sockets[0],
                own_address=way.address,
            )


def _expected(way: Way, node: NodeFacts, interface: str, address: str) -> bool:
    """Whether it is an interface that NCCL was told, with the private address or, where that is on none of them (it is
    on lo, say), with one of its own."""
    if interface not in way.sockets:
        return False
    own = {str(item.address) for item in addresses_of(node) if item.interface == interface}
    return address == str(way.address) or (way.on not in way.sockets and address in own)
