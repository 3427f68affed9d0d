"""A node whose network probe could not be asked: nothing is known about its pairs."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.pairs import tried_pairs
from clusterctl.inventory.model import Inventory

UNKNOWN = Code(
    name="pairs-unknown",
    severity=WARNING,
    title="The network was not tried",
    runbook="network.md",
    seen="the network between this node and the others was not tried: {reason}",
    why="a blocked port shows only when a worker joins, or as a hang",
    fix="fix what the reason names, then run clusterctl check again",
)


@rule(Section.PAIRS, UNKNOWN)
def pairs_unknown(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """A node whose network probe could not be asked."""
    if seen := tried_pairs(facts):
        for name, end in seen.ends.items():
            if isinstance(end, Unknown):
                yield UNKNOWN.found(name, reason=end.reason)
