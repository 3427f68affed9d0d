"""What all parts of the agent know of their node: its configuration, its settings, its record of failures."""

from __future__ import annotations

import collections
import time
from collections.abc import Mapping
from typing import Any

from .journal import CONFIG_DIR, Journal, read_json
from .unavailable import Unavailable

TAIL_LINES = 60
"""Last lines of the server's output kept to say why it died."""
KEPT_LINES = 200
"""Lines that match the configuration's `keep_lines` kept in the state (the KV cache's size; a line a rank)."""
STABLE_S = 60
"""Seconds of service after which a failure counts as the first again."""

DEFAULT_SETTINGS: Mapping[str, Any] = {
    "supervise": True,
    "ray_timeout_s": 180.0,
    "load_timeout_s": 3600.0,
    "drain_s": 30.0,
    "stop_s": 60.0,
    "canary_interval_s": 30.0,
    "hang_s": 120.0,
    "max_restarts": 8,
    "cache_max_bytes": 20 * 1024**3,
    "metrics": None,
}
"""What settings.json holds for an inventory that says nothing (tested against it). For a file that a loss of power
emptied: it is replaced while the cluster runs, and a node must not fail for it."""


class Node:
    """One life of the container."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.journal = Journal(config["node"], config["role"])
        self.unavailable = Unavailable(self.journal)
        """What answers on the API's port while no server does."""
        self.last_settings: dict[str, Any] = dict(DEFAULT_SETTINGS)
        self.went_well_since: float | None = None
        self.server: dict[str, Any] = {}
        """server.json as it was at the server's start, and the API's key."""
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self.kept: list[str] = []
        self.answered: set[int] = set()
        """Engines that have completed a token since the server's start."""
        self.canaries: dict[int, tuple[float, float]] = {}
        """Engine -> when its last one-token completion came back, and what it took (metrics.py)."""

    def settings(self) -> dict[str, Any]:
        """Time-outs and supervision as they are now; as they were last while the file cannot be read."""
        self.last_settings |= read_json(CONFIG_DIR / "settings.json")
        return self.last_settings

    def heals(self) -> bool:
        """Whether a failure is repaired: `up` has seen the cluster serve, and supervision is on."""
        return bool(self.settings()["supervise"]) and (CONFIG_DIR / "adopted").exists()

    def well_s(self) -> float:
        """Seconds for which it has gone well until now."""
        return time.monotonic() - self.went_well_since if self.went_well_since is not None else 0

    def going_well(self) -> None:
        """After a while of service the next failure is the first again, also in another life of the container."""
        if self.journal.state["failures"] and self.well_s() >= STABLE_S:
            self.journal.state["failures"] = 0
            self.journal.save()

    def count_failure(self, *, counts: bool) -> int:
        """Failures in a row, this one included, if it counts."""
        before = 0 if self.well_s() >= STABLE_S else self.journal.state["failures"]
        self.journal.state["failures"] = before + counts
        self.went_well_since = None
        return int(self.journal.state["failures"])

    def failed_before(self) -> bool:
        """Whether a new server was tried already, and did not serve for long."""
        return self.journal.state["failures"] > 0 and self.well_s() < STABLE_S

    def gate_timeout_s(self, reason: str) -> float | None:
        """Seconds for other nodes to come; None, for as long as it takes: in a cluster that heals a machine may be off
        for hours. But first the gang is formed anew once, `reason` in its record, in case that helps."""
        last = self.journal.state["restarts"][-1:]
        patient = self.heals() and bool(last) and last[0]["reason"] == reason
        return None if patient else float(self.settings()["ray_timeout_s"])

    def waits_for(self, problem: str | None) -> None:
        """Write down what the gate waits for; None when it waits no longer."""
        if self.journal.state.get("waiting_for") != problem:
            self.journal.state["waiting_for"] = problem
            self.journal.save()
