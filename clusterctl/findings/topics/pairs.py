"""The network between every two nodes, in both directions, where it was tried."""

from __future__ import annotations

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.pairs import End, Pairs

ENOUGH_PAIRS = 6
"""Ordered pairs (three nodes) from which on the median pair means something."""


def tried_pairs(facts: ClusterFacts) -> Pairs | None:
    """What was seen of all pairs; None where the network was not tried."""
    seen = facts.deep.pairs if facts.deep is not None else None
    return seen if isinstance(seen, Pairs) else None


def end_of(seen: Pairs, name: str) -> End:
    """The end of a node that a link leads to or from: links are between nodes that listened."""
    end = seen.ends[name]
    if isinstance(end, Unknown):
        raise TypeError(f"{name} has links and no end: {end.reason}")
    return end
