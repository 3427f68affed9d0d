"""No pair has much less throughput than the others."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.pairs import ENOUGH_PAIRS, end_of, tried_pairs
from clusterctl.inventory.model import Inventory

LOW_SHARE = 0.5
"""Part of the median pair's throughput below which a pair is an outlier: half is a link at half speed."""

LOW = Code(
    name="throughput-low",
    severity=WARNING,
    title="A slow link",
    runbook="network.md",
    seen="{source} -> {target}: {rate} Gbit/s over TCP (the median pair: {median} Gbit/s)",
    why="the slowest link sets the pace of the whole pipeline",
    fix="on both: ethtool {interface} (speed, duplex); ethtool -S {interface} for errors; a cable or port at the "
    "switch",
    note="Only with `--bandwidth` and three nodes or more.",
)


@rule(Section.PAIRS, LOW)
def pair_throughput(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """A pair with much less throughput than the others."""
    seen = tried_pairs(facts)
    if seen is None or len(seen.gbit_per_s) < ENOUGH_PAIRS:
        return
    median = statistics.median(seen.gbit_per_s.values())
    for (source, target), rate in seen.gbit_per_s.items():
        if rate < LOW_SHARE * median:
            yield LOW.found(
                source,
                target,
                source=source,
                target=target,
                rate=f"{rate:.2f}",
                median=f"{median:.2f}",
                interface=end_of(seen, source).interface,
            )
