"""A connection to a node's address is answered by that node."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.pairs import end_of, tried_pairs
from clusterctl.inventory.model import Inventory

OTHER = Code(
    name="pair-other-machine",
    severity=ERROR,
    title="Another machine answers",
    runbook="network.md",
    seen="{source} -> {target}: {address} is answered by {other}",
    why="two machines have the address, or a proxy stands between them: ranks would join the wrong node",
    fix="on {source}: arping -c 3 {address} (two answers: two machines); give each an address of its own",
)


@rule(Section.PAIRS, OTHER)
def pair_other_machine(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """A connection to a node's address is answered by something else."""
    seen = tried_pairs(facts)
    for (source, target), link in seen.links.items() if seen else ():
        others = {outcome.removeprefix("other: ") for outcome in link.ports.values() if outcome.startswith("other: ")}
        if seen and others:
            address, other = end_of(seen, target).address, ", ".join(sorted(others))
            yield OTHER.found(source, target, source=source, target=target, address=address, other=other)
