"""What the agent writes down: events on stderr, and its state, which outlives the container's restarts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG_DIR = Path("/etc/clusterctl")
STATE_DIR = Path("/run/clusterctl")
KEPT_RESTARTS = 50
"""Restarts kept in the state with their reasons; `restarts_total` and `restart_counts` count on."""
STARTED = ("serving", "running")
"""Phases in which a start has come to its end."""
BROKEN_OFF = ("restarting", "draining", "drained", "stopping", "stopped", "failed")
"""Phases that break it off; all others are on the way, and some have the name of a process."""


class Journal:
    """Writes events and the state file. The record of restarts is carried over from the container's earlier life."""

    def __init__(self, node: str, role: str) -> None:
        self.path = STATE_DIR / "state.json"
        self.unsaved: str | None = None
        """Why the state could not be saved the last time."""
        self.before = read_json(self.path)
        self.state: dict[str, Any] = {
            "node": node,
            "role": role,
            "ready": False,
            "server": self.before.get("server", 0),
            "failures": self.before.get("failures", 0),
            "restarts": self.before.get("restarts", []),
            "restarts_total": self.before.get("restarts_total", 0),
            "restart_counts": counted(self.before),
        }
        if phases := self.before.get("start_phases"):
            self.state["start_phases"] = phases  # of the last start that came to serve
        self.phases: dict[str, float] = {}
        """Seconds in each phase of the start that is under way."""
        self.entered = time.monotonic()
        if start_s := self.before.get("start_s"):
            self.state["start_s"] = start_s  # how long the last start took (unavailable.py)
        if canary := self.before.get("canary"):
            self.state["canary"] = canary  # until when it served, so that `diagnose` knows what it has survived

    def phase(self, phase: str, **fields: object) -> None:
        """Enter a phase: an event, and the state says so from now on."""
        self._measure(phase)
        self.state.update(phase=phase, since=time.time(), **fields)
        self.event("phase", phase=phase, **fields)

    def _measure(self, phase: str) -> None:
        """Add up how long each phase of a start takes; what is broken off is forgotten."""
        now, left = time.monotonic(), self.state.get("phase")
        if left is not None and left not in (*STARTED, *BROKEN_OFF):
            self.phases[left] = round(self.phases.get(left, 0.0) + now - self.entered, 3)
        self.entered = now
        if phase in STARTED and self.phases:
            self.state["start_phases"] = self.phases
        if phase in (*STARTED, *BROKEN_OFF):
            self.phases = {}

    def event(self, event: str, **fields: object) -> None:
        """Write one event, with the number of the server's start that it belongs to, and the state after it."""
        line = {"event": event, "t": round(time.time(), 3), "server": self.state["server"], **fields}
        self.save()  # first: who reads the event may look at the state next
        os.write(2, json.dumps(line).encode() + b"\n")

    def restart(self, scope: str, reason: str, detail: str) -> None:
        """Record that something is started again, and why."""
        record = {"t": round(time.time(), 3), "scope": scope, "reason": reason, "detail": detail}
        self.state["restarts"] = [*self.state["restarts"], record][-KEPT_RESTARTS:]
        self.state["restarts_total"] += 1
        reasons = self.state["restart_counts"].setdefault(scope, {})
        reasons[reason] = reasons.get(reason, 0) + 1
        self.phases, self.entered = {}, time.monotonic()
        self.event("restart", scope=scope, reason=reason, detail=detail)

    def save(self) -> None:
        """Replace the state file in one step, so that a reader never sees half of it, nor a node that lost its power.

        A report is no reason to stop: on a full disk the next save tries again.
        """
        partial = self.path.with_suffix(".new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("w") as file:
                json.dump(self.state, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path)
            self.unsaved = None
        except OSError as error:
            if self.unsaved is None:
                os.write(1, f"clusterctl: the state cannot be saved: {error}\n".encode())
            self.unsaved = str(error)


def counted(before: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Scope -> reason -> how often that was started again; from the restarts that are kept where nobody has counted."""
    if "restart_counts" in before:
        return dict(before["restart_counts"])
    found: dict[str, dict[str, int]] = {}
    for each in before.get("restarts", []):
        reasons = found.setdefault(str(each.get("scope")), {})
        reasons[str(each.get("reason"))] = reasons.get(str(each.get("reason")), 0) + 1
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file; empty when the file is not there, or was cut off by a loss of power."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
