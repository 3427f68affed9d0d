"""A short all-reduce across the nodes, in the serving image with the serving flags: does it end, over what, how fast?

The container's side is agent/collective.py; what NCCL itself says is read by nccl_log.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from clusterctl.facts.fact import Unknown
from clusterctl.signatures import nccl as nccl_log
from clusterctl.signatures.signature import Explanation

LINES_KEPT = 6
"""Lines of a node that failed that are shown."""


@dataclass(frozen=True)
class NodeRun:
    """What one node's ranks said."""

    joined: tuple[int, ...]
    reduced: Mapping[int, float]
    """Rank → seconds of one all-reduce, for ranks with the right sum."""
    errors: Mapping[int, str]
    """Rank → why it ended."""
    late: tuple[int, ...]
    """Ranks that were still waiting at the deadline."""
    transport: nccl_log.Transport
    causes: tuple[Explanation, ...]
    lines: tuple[str, ...]
    """What the node said that warns, else its last lines."""


@dataclass(frozen=True)
class Collective:
    """The all-reduce as a whole."""

    backend: Literal["nccl", "gloo"]
    bytes: int
    ranks: Mapping[str, tuple[int, ...]]
    """Node → its ranks."""
    nodes: Mapping[str, NodeRun | Unknown]

    @property
    def world(self) -> int:
        """Number of ranks."""
        return sum(len(ranks) for ranks in self.ranks.values())

    @property
    def passed(self) -> bool:
        """Whether every rank has the right sum."""
        runs = self.nodes.values()
        return all(isinstance(run, NodeRun) for run in runs) and len(self._seconds()) == self.world

    @property
    def bus_gbyte_per_s(self) -> float | None:
        """Bus bandwidth in GB/s as nccl-tests defines it: bytes / time x 2(n-1)/n, of the slowest rank."""
        if not self.passed or self.world < 2:
            return None
        return self.bytes / max(self._seconds()) * 2 * (self.world - 1) / self.world / 1e9

    def _seconds(self) -> list[float]:
        return [seconds for run in self.nodes.values() if isinstance(run, NodeRun) for seconds in run.reduced.values()]


def read_run(lines: Sequence[str]) -> NodeRun:
    """One node's output."""
    events = list(_events(lines))
    return NodeRun(
        joined=tuple(event["rank"] for event in events if event["event"] == "joined"),
        reduced={event["rank"]: float(event["seconds"]) for event in events if event["event"] == "reduced"},
        errors={
            event["rank"]: event.get("error") or f"wrong sum: {event['smallest']}, not {event['expected']}"
            for event in events
            if event["event"] in ("error", "wrong")
        },
        late=tuple(rank for event in events if event["event"] == "deadline" for rank in event["alive"]),
        transport=nccl_log.transport(lines),
        causes=nccl_log.causes(lines),
        lines=nccl_log.warnings(lines, LINES_KEPT),
    )


def _events(lines: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The probe's own lines. Another library's line may stand before one of them, without a newline."""
    for line in lines:
        start = line.find('{"event": ')
        if start >= 0:
            try:
                yield json.loads(line[start:])
            except ValueError:
                continue
