"""A node that SSH does not reach."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

UNREACHABLE = Code(
    name="node-unreachable",
    severity=ERROR,
    title="A node cannot be reached",
    runbook="ssh.md",
    seen="{reason}",
    why="every declared node holds a part of the model: without one the cluster cannot start",
    fix="{fix}",
    note="The reason is SSH's own, such as `root@10.77.0.2:22: cannot connect (No route to host)`, and the fix follows "
    "from it; else it is `ssh -v` to the node from here.",
    waivable=False,
)


@rule(Section.SSH, UNREACHABLE)
def node_unreachable(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """A node that SSH does not reach."""
    for name, node in facts.unreachable.items():
        yield UNREACHABLE.found(name, reason=node.reason, fix=node.fix or f"ssh -v to {name} from here")
