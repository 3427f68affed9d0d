"""Hosts with an engine that only remembers what it was asked, and logs that were written beforehand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from clusterctl.agent.paths import STATE_PATH
from clusterctl.errors import ClusterctlError
from clusterctl.hosts.engine.engine import Container, FileInContainer, LogChunk
from clusterctl.hosts.host import Host, Hosts
from clusterctl.lock.cluster import ClusterLock
from clusterctl.lock.run import Laps, Run
from clusterctl.progress import SILENT, Progress
from tests.unit.support import inventory

Script = Iterable[LogChunk | Callable[[], None]]
"""A log: frames, and what happens between them."""


def event(name: str, *, server: int = 1, t: float = 1.0, **fields: Any) -> LogChunk:
    """A frame with one event of an agent."""
    line = {"event": name, "t": t, "server": server, **fields}
    return LogChunk("stderr", json.dumps(line).encode() + b"\n")


def phase(name: str, *, server: int = 1, **fields: Any) -> LogChunk:
    """A frame with the agent's word that it is in a phase now."""
    return event("phase", server=server, phase=name, **fields)


def said(text: str) -> LogChunk:
    """A frame of the server's own output."""
    return LogChunk("stdout", text.encode())


def look(*, running: bool, restarting: bool = False, exit_code: int = 0, oom_killed: bool = False) -> Container:
    """What the engine says of a container at one look."""
    return Container(
        id="",
        name="demo-node",
        labels={},
        status="restarting" if restarting else "running" if running else "exited",
        running=running,
        restarting=restarting,
        exit_code=exit_code,
        oom_killed=oom_killed,
        error="",
        created_at="",
        started_at="",
        started_t=None,
        restart_policy="no",
        restart_count=0,
        raw={},
    )


@dataclass
class Engine:
    """One node's engine. `calls`, shared by all nodes, is everything that was asked, in order."""

    node: str
    calls: list[tuple[str, ...]]
    logs_of: dict[str, list[Script]] = field(default_factory=dict)
    """Container → its logs, one for each time that it is read; after the last one, nothing more comes."""
    states: dict[str, list[Container]] = field(default_factory=dict)
    """Container → what the engine says of it, look by look; the last one stays."""
    agents: dict[str, object] = field(default_factory=dict)
    """Container → content of its agent's state file."""
    refuses: frozenset[str] = frozenset()
    """Calls that fail."""
    since: list[float] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def _note(self, call: str, *words: str) -> None:
        self.calls.append((self.node, call, *words))
        if call in self.refuses:
            raise ClusterctlError(f"{self.node} refuses to {call}")

    def logs(
        self, container: str, *, follow: bool, since: float = 0, silence_s: float | None = None, tail: int | None = None
    ) -> Iterator[LogChunk]:
        self.since.append(since)
        scripts = self.logs_of.get(container, [])
        if not scripts:
            if silence_s is None:
                self.released.wait()  # a container that says nothing: its log stays open
                raise ClusterctlError("the test is over")
            return
        for item in scripts.pop(0):
            if isinstance(item, LogChunk):
                yield item
            else:
                item()

    def container(self, name: str) -> Container | None:
        looks = self.states.get(name)
        if not looks:  # no such container
            return None
        return replace(looks.pop(0) if len(looks) > 1 else looks[0], id=name)

    def started_at(self, container: str) -> float:
        return 100.0

    def read_file(self, container: str, path: str) -> bytes | None:
        found = self.agents.get(container) if path == STATE_PATH else None
        return None if found is None else json.dumps(found).encode()

    def put_files(self, container: str, files: Iterable[FileInContainer]) -> None:
        for file in files:
            self._note("write", container, file.path, file.content.decode())

    def signal(self, container: str, name: str) -> None:
        self._note("signal", container, name)

    def stop(self, container: str, *, timeout_s: float) -> None:
        self._note("stop", container)

    def set_restart_policy(self, container: str, policy: str) -> None:
        self._note("policy", container, policy)


@dataclass
class StandIn:
    """A host with such an engine."""

    name: str
    engine: Engine


def hosts_of(engines: Iterable[Engine]) -> Hosts:
    """The nodes of the base inventory, with these engines behind their names."""
    connected = {engine.node: cast(Host, StandIn(engine.node, engine)) for engine in engines}
    return Hosts(inventory(), connected=connected)


@dataclass
class Lock:
    """A lock that is lost on some nodes, or on none."""

    gone: Callable[[], Mapping[str, str]] = dict

    def lost(self) -> Mapping[str, str]:
        return self.gone()

    def ensure(self) -> None:
        assert not self.lost()


def run_of(
    hosts: Hosts, changes: Mapping[str, Any] | None = None, *, progress: Progress = SILENT, lock: Lock | None = None
) -> Run:
    """A run of me@here over these hosts, for the base inventory with these changes."""
    return Run(hosts, inventory(changes), progress, cast(ClusterLock, lock or Lock()), "me@here", Laps())
