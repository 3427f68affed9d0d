"""No pair is much farther apart than the others, or than one building is wide."""

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

HIGH_US = 2000.0
"""A round trip that no network inside one building takes. A pipeline stage sends to the next one for every token."""
FACTOR = 5.0
"""A pair whose round trip is so many times the median one's goes another way than the rest."""
FLOOR_US = 500.0
"""Below it a pair is no outlier, whatever the others take: scheduling alone adds tens of microseconds."""

HIGH = Code(
    name="latency-high",
    severity=WARNING,
    title="Long round trips",
    runbook="network.md",
    seen="{source} -> {target}: the shortest of 20 round trips took {duration} ms{_compared}",
    why="every token crosses from one pipeline stage to the next: latency is paid for each",
    fix="on {source}: ip route get {address}; look for a router, a VPN or a loaded link",
    note="From 2 ms on; with three nodes or more, from five times the median pair's and 0.5 ms on, and then `(the "
    "median pair: M ms)` is added.",
)


@rule(Section.PAIRS, HIGH)
def pair_latency(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """A pair that is much farther apart than the others, or than one building is wide."""
    seen = tried_pairs(facts)
    if seen is None:
        return
    times = {pair: link.min_us for pair, link in seen.links.items() if link.min_us is not None}
    comparable = len(times) >= ENOUGH_PAIRS
    middle = statistics.median(times.values()) if comparable else HIGH_US
    limit = min(HIGH_US, max(FLOOR_US, FACTOR * middle))
    for (source, target), least in times.items():
        # Both directions take the same round trip: the slower one speaks for both.
        if least > limit and (least, source) >= (times.get((target, source), 0.0), target):
            yield HIGH.found(
                source,
                target,
                source=source,
                target=target,
                duration=f"{least / 1000:.2f}",
                _compared=f" (the median pair: {middle / 1000:.2f} ms)" if comparable else "",
                address=end_of(seen, target).address,
            )
