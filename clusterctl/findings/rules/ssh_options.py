"""What ssh_config says has its effect, or is named."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

NO_EFFECT = Code(
    name="ssh-option-ignored",
    severity=WARNING,
    title="An option of ssh_config has no effect",
    runbook="ssh.md",
    seen="ssh_config: {remark}",
    why="ssh and clusterctl reach the node in different ways",
    fix="see that the node is reached as you mean it (clusterctl nodes), then waive this, or take the option out for "
    "this host, in a file of its own that ssh.config names",
)


@rule(Section.MACHINE, NO_EFFECT)
def ssh_options(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """What ssh_config says has its effect, or is named; once for all nodes that it is about."""
    remarks = dict.fromkeys(remark for node in facts.nodes.values() for remark in node.ssh_remarks)
    for remark in remarks:
        yield NO_EFFECT.found(
            *(name for name, node in facts.nodes.items() if remark in node.ssh_remarks), remark=remark
        )
