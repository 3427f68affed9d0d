"""Reading what an agent writes: its events, from the container's log stream. The writer is agent/inside/journal.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """One event of an agent; `t` is Unix time in seconds on the node's own clock."""

    name: str
    t: float
    server: int
    """Number of the server's start that it belongs to; 0 on a worker."""
    fields: Mapping[str, Any]


def parse_event(line: str) -> Event | None:
    """An event from a line of the container's stderr; None for anything else (Python's or the engine's own words)."""
    if not line.startswith('{"event":'):
        return None
    try:
        record = json.loads(line)
        return Event(str(record.pop("event")), float(record.pop("t")), int(record.pop("server", 0)), record)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
