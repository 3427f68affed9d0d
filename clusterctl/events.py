"""Reading what an agent writes: its events, from the container's log stream. The writer is agent/agent.py."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from clusterctl.hosts.engine import LogChunk


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


class Lines:
    """Puts log frames together to lines, one stream at a time (a frame may end in the middle of a line)."""

    def __init__(self) -> None:
        self._rest = {"stdout": b"", "stderr": b""}

    def feed(self, chunk: LogChunk) -> Iterator[str]:
        """The lines that this frame completes."""
        *lines, self._rest[chunk.stream] = (self._rest[chunk.stream] + chunk.data).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")

    def end(self) -> Iterator[str]:
        """What a stream ended with without a newline: the last words of a process that was killed."""
        for stream, rest in self._rest.items():
            self._rest[stream] = b""
            if rest:
                yield rest.decode(errors="replace").rstrip("\r")


FAILURES: Mapping[str, str] = {
    "ray-exited": "Ray stopped on this node",
    "ray-nodes-wrong": "Ray holds other nodes or GPUs than the inventory declares (F3)",
    "ray-nodes-missing": "not every node joined Ray in time (F44)",
    "probe-died": "Ray could not be asked which nodes it has",
    "head-lost": "the head's Ray is gone, and with it the cluster that this node was in (F62)",
    "node-lost": "a node has left Ray, and the server has lost its ranks (F60)",
    "worker-lost": "a rank of the server has died (F60)",
    "workers-left": "Ray did not end what an earlier server had started (F63)",
    "server-exited": "the vLLM server ended (its exit code is 0 also when its engine died: F60)",
    "no-completion": "the server answers, but generation does not work (F60, F61)",
    "server-hangs": "the server takes requests and its engine does nothing (F61)",
    "load-timeout": "the server did not complete a token in time (timeouts.load_s)",
    "agent-bug": "a defect of clusterctl's agent: please report it with this output",
}
"""What an agent's reasons for giving up mean (agent.py, GiveUpError)."""

RETURNS: Mapping[str, str] = {
    "requested": "an operator asked for it",
    "started-again": "the container was stopped and started again: by a person, the engine or the machine",
    "container-ended": "the container ended without a word: killed, out of memory, or the machine lost its power",
}
"""What an agent's other reasons for a start mean (agent.py, Journal.restart)."""

MEANINGS: Mapping[str, str] = {**FAILURES, **RETURNS}
"""What every reason in an agent's events means."""
