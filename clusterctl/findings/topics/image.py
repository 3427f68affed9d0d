"""What the image reported when it ran on the nodes; nothing after a quick check."""

from __future__ import annotations

import re
from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.image_report import ImageReport


def reports(facts: ClusterFacts) -> Iterator[tuple[str, NodeFacts, ImageReport]]:
    """Every node whose image reported."""
    for name, report in (facts.deep.images if facts.deep is not None else {}).items():
        if isinstance(report, ImageReport):
            yield name, facts.nodes[name], report


def numbers(version: str | None) -> tuple[int, ...]:
    """A version's leading numbers: 2.60.0rc1 → (2, 60, 0)."""
    found = re.match(r"\d+(\.\d+)*", version or "")
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def has_verbs(names: tuple[str, ...] | Unknown | None) -> bool:
    """Whether one of these device nodes is what RDMA runs over."""
    return isinstance(names, tuple) and any(name.startswith("uverbs") for name in names)
