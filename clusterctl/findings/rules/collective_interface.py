"""NCCL's first connections leave by the interface of network.cidr."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.address import private_address
from clusterctl.facts.cluster import ClusterFacts
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
        place = private_address(inventory, name, facts.nodes[name])
        used = run.transport.bootstrap if isinstance(run, NodeRun) else None
        if used is not None and place is not None and used != (place.interface, str(place.address)):
            yield OTHER.found(
                name,
                interface=used[0],
                address=used[1],
                own_interface=place.interface,
                own_address=place.address,
            )
