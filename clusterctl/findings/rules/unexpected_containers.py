"""Several containers of this cluster on one node: only one can belong to it."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.agent.paths import container_name
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

EXTRA = Code(
    name="container-extra",
    severity=ERROR,
    title="Unexpected containers",
    runbook="containers.md",
    seen="containers with this cluster's label but another name: {names}",
    why="they hold the cluster's ports or accelerators",
    fix="clusterctl down (removes everything with the label clusterctl.cluster={cluster})",
)


@rule(Section.ENGINE, EXTRA)
def unexpected_containers(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Containers with the cluster's label and another name than the cluster's."""
    expected = container_name(inventory.cluster)
    for name, node in facts.nodes.items():
        if isinstance(node.containers, Unknown):
            continue
        extra = [container.name for container in node.containers if container.name != expected]
        if extra:
            yield EXTRA.found(name, names=", ".join(extra), cluster=inventory.cluster)
