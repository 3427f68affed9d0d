"""What an agent reports in its state file, typed: the one reader of it on the operator's side.

The writer is `Journal` in the agent itself. An old agent, or a damaged file, may lack any of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SERVER_PHASES = ("ray", "gate", "loading", "serving", "draining")
"""Phases of a head's agent in which its server runs or is still going to be started."""

GONE = ("drained", "stopping", "stopped", "failed")
"""Phases in which it no longer does."""


@dataclass(frozen=True)
class Restart:
    """Something that an agent started anew by itself."""

    t: float | None
    """Unix time in seconds on the node's own clock."""
    scope: str
    """server, gang, node or container."""
    reason: str
    """One of agent/reasons.py."""
    detail: str
    record: Mapping[str, Any] = field(default_factory=dict)
    """The agent's own record, as it is passed on in JSON."""


@dataclass(frozen=True)
class CacheState:
    """Compiled code that the node keeps for the next start."""

    path: str
    """Of this image's, in the container."""
    bytes: int | None
    """On the disk, of all images; None where it cannot be used."""
    problem: str | None
    """Why it cannot be used."""


@dataclass(frozen=True)
class AgentState:
    """An agent's latest report. Without one, every field says that nothing is known."""

    phase: str | None = None
    since: float | None = None
    """When it entered the phase: Unix time in seconds on the node's own clock."""
    server: int = 0
    """Number of its latest server, counted over the container's life; 0 on a worker."""
    ready: bool = False
    """Whether the server has completed a token since it started."""
    reason: str | None = None
    """Why it gave up: one of agent/reasons.py."""
    detail: str | None = None
    by: str = "somebody"
    """Who asked for what it does now: user@host."""
    action: str | None = None
    """What was asked for: drain or restart."""
    waiting_for: str | None = None
    nodes: Mapping[str, Any] | None = None
    """Address → accelerators of the nodes that have joined; None where no gate counts them."""
    workers: Mapping[str, Any] = field(default_factory=dict)
    """Name → address of the processes that hold the server's ranks."""
    kept: tuple[str, ...] = ()
    """Lines of the server's log that tell of its KV cache."""
    canary_t: float | None = None
    """When it last had a completion: Unix time in seconds on the node's own clock."""
    restarts: tuple[Restart, ...] = ()
    """The latest ones."""
    restarts_total: int = 0
    cache: CacheState | None = None
    """None: nothing is kept, or not known."""
    start_phases: Mapping[str, float] = field(default_factory=dict)
    """Phase -> seconds that it took in the last start that came to serve."""

    @property
    def serving(self) -> bool:
        """Whether it last saw a completion, and nothing has gone wrong since."""
        return self.phase == "serving"

    @property
    def has_server(self) -> bool:
        """Whether its server runs or is still going to be started."""
        return self.phase in SERVER_PHASES

    @property
    def ending(self) -> bool:
        """Whether it ends its server for good, or has: it waits for what comes next, and heals nothing."""
        return self.phase == "drained" or (self.phase == "draining" and self.action == "drain")

    @property
    def last_restart(self) -> Restart | None:
        """The latest restart that it recorded."""
        return self.restarts[-1] if self.restarts else None


def agent_state(report: object) -> AgentState:
    """The report in a state file, whatever is missing from it or of a wrong type."""
    if not isinstance(report, Mapping):
        return AgentState()
    restarts = tuple(_restart(each) for each in _list(report.get("restarts")) if isinstance(each, Mapping))
    nodes, workers, canary = report.get("nodes"), report.get("workers"), report.get("canary")
    return AgentState(
        phase=_text(report.get("phase")),
        since=_number(report.get("since")),
        server=int(_number(report.get("server")) or 0),
        ready=bool(report.get("ready")),
        reason=_text(report.get("reason")),
        detail=_text(report.get("detail")),
        by=_text(report.get("by")) or "somebody",
        action=_text(report.get("action")),
        waiting_for=_text(report.get("waiting_for")),
        nodes=nodes if isinstance(nodes, Mapping) else None,
        workers=workers if isinstance(workers, Mapping) else {},
        kept=tuple(str(line) for line in _list(report.get("kept"))),
        canary_t=_number(canary.get("t")) if isinstance(canary, Mapping) else None,
        restarts=restarts,
        restarts_total=int(_number(report.get("restarts_total")) or len(restarts)),
        cache=_cache(report.get("cache")),
        start_phases=_numbers(report.get("start_phases")),
    )


def _restart(record: Mapping[str, Any]) -> Restart:
    scope, reason, detail = (_text(record.get(key)) or "" for key in ("scope", "reason", "detail"))
    return Restart(_number(record.get("t")), scope, reason, detail, record)


def _cache(value: object) -> CacheState | None:
    if not isinstance(value, Mapping) or (path := _text(value.get("path"))) is None:
        return None
    size = _number(value.get("bytes"))
    return CacheState(path, int(size) if size is not None else None, _text(value.get("problem")))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _numbers(value: object) -> Mapping[str, float]:
    named = value.items() if isinstance(value, Mapping) else ()
    return {str(name): number for name, each in named if (number := _number(each)) is not None}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
