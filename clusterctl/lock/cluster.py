"""One lock per cluster, held on every node that is reached, for as long as somebody changes the cluster.

On each node a shell script (scripts/lock.sh) holds a flock and ends, and with it the lock, when its SSH channel does or
when it gets no request for SILENCE_S: what a closed laptop, `kill -9` or a cut cable leaves behind goes away by itself.
The same script keeps the node's history (history.py).
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from clusterctl import __version__
from clusterctl.errors import ClusterctlError, ExitCode, NodeFailure, NodesError
from clusterctl.hosts.host import Host, Hosts
from clusterctl.hosts.ssh.errors import CommandTimeoutError, ConnectionLostError
from clusterctl.lock.history import plain
from clusterctl.lock.holder import Busy, read_holder
from clusterctl.lock.node import ANSWER_S, RELEASE_S, SILENCE_S, NodeLock
from clusterctl.lock.operator import whoami
from clusterctl.progress import Progress


class LockedError(ClusterctlError):
    """Another run holds the cluster's lock. Nothing was changed, and nothing is held by this run."""

    exit_code = ExitCode.LOCKED

    def __init__(self, cluster: str, busy: Mapping[str, Busy], *, waited_s: float | None) -> None:
        self.busy = dict(busy)
        still = f" still, after {waited_s:g} s," if waited_s is not None else ""
        lines = [f"  {node}: {found}" for node, found in busy.items()]
        super().__init__(
            "\n".join([f"cluster {cluster} is{still} locked by another run of clusterctl:", *lines]),
            hint=("" if waited_s is not None else "wait until it is done with --wait, or ")
            + f"ask whoever runs it; if that run is dead, its lock ends by itself within {SILENCE_S} s",
        )


class LockLostError(ClusterctlError):
    """The lock is gone on some nodes, though the run was not done: nothing more may be changed."""

    def __init__(self, cluster: str, lost: Mapping[str, str]) -> None:
        self.lost = dict(lost)
        lines = [f"  {node}: {why}" for node, why in lost.items()]
        super().__init__(
            "\n".join([f"the lock of cluster {cluster} was lost, so nothing more was changed:", *lines]),
            hint="clusterctl status shows the state, clusterctl history who changed it; then run the command again",
        )


class ClusterLock:
    """The lock while it is held, on all nodes that were reached when it was taken."""

    def __init__(self, hosts: Hosts, locks: Mapping[str, NodeLock], about: Mapping[str, Any]) -> None:
        self._hosts, self._locks, self._about = hosts, locks, about
        self._began = time.monotonic()
        self._finished = False

    @property
    def run(self) -> str:
        """Identifies this run in the history."""
        return str(self._about["run"])

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes on which it is held."""
        return tuple(self._locks)

    def ensure(self) -> None:
        """To be called before every step that changes something. Raises LockLostError, which names the nodes."""
        if lost := self.lost():
            raise LockLostError(str(self._about["cluster"]), lost)

    def lost(self) -> Mapping[str, str]:
        """Node → why its lock is gone, for those where it is."""
        outcomes = self._hosts.each(lambda host: self._locks[host.name].lost(), self._locks)
        return {node: why for node, why in outcomes.values.items() if why is not None}

    def note(self, text: str) -> None:
        """Record in the history of all nodes what was changed. Never a secret."""
        self._record({"event": "note", "run": self.run, "text": text}, timeout_s=ANSWER_S)

    def note_start(self, timings_s: Mapping[str, float]) -> None:
        """Record in the history of all nodes how long the phases of a start took, in seconds."""
        self._record({"event": "start", "run": self.run, "timings_s": dict(timings_s)}, timeout_s=ANSWER_S)

    def finish(self, outcome: str) -> None:
        """Record how the run ended (ok; failed: why; interrupted), and release. May be called twice."""
        if self._finished:
            return
        self._finished = True
        seconds = round(time.monotonic() - self._began, 1)
        end = {"event": "end", "run": self.run, "outcome": outcome, "seconds": seconds}
        self._record(end, timeout_s=RELEASE_S)
        release(self._hosts, self._locks)

    def begin(self) -> Mapping[str, str]:
        """Record that the run began. Returns node → why it was not recorded, for those that failed."""
        cut_off = _record({"event": "cut-off", "run": self.run})
        self._hosts.each(lambda host: self._locks[host.name].ask(f"begin {cut_off}", "begun"), self._locks)
        return self._record({"event": "begin", **self._about}, timeout_s=RELEASE_S)

    def _record(self, values: Mapping[str, Any], *, timeout_s: float) -> Mapping[str, str]:
        """Node → why it was not recorded there. A lost lock is reported by `ensure`."""

        def write(host: Host) -> tuple[str, str]:
            record = _record({**values, "node": host.name})
            return self._locks[host.name].ask(f"record {record}", "recorded", "unrecorded", timeout_s=timeout_s)

        outcomes = self._hosts.each(write, self._locks)
        unwritten = {node: plain(why) for node, (word, why) in outcomes.values.items() if word == "unrecorded"}
        return unwritten | {node: error.message for node, error in outcomes.errors.items()}


@contextmanager
def cluster_lock(
    hosts: Hosts, cluster: str, command: str, *, wait_s: float | None, progress: Progress
) -> Iterator[ClusterLock]:
    """Hold the cluster's lock on every connected node. `command` is what other runs see; no secret in it.

    All or nothing. When another run holds it: LockedError at once, or with `wait_s` after that many seconds. A node
    that does not answer is given up (Hosts.give_up), so that what is not locked is not touched. Raises NodesError when
    a node cannot be locked at all. How the block ends is written into the nodes' history.
    """
    about = _about(cluster, command)
    locks: dict[str, NodeLock] = {}
    try:
        _open(hosts, cluster, locks)
        locks = {name: locks[name] for name in hosts.connected}  # in inventory order
        _take(hosts, locks, about, wait_s=wait_s, progress=progress)
        lock = ClusterLock(hosts, locks, about)
        for node, why in lock.begin().items():
            progress.detail(f"{node}: this run is not recorded in the history: {why}")
    except BaseException:
        release(hosts, locks)
        raise
    try:
        yield lock
    except BaseException as error:
        lock.finish(outcome_of(error))
        raise
    lock.finish("ok")


def outcome_of(error: BaseException) -> str:
    """How a run ended, for the history: the first line of what went wrong; of a list, with its first reason."""
    if not isinstance(error, Exception):
        return "interrupted"
    first, *rest = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    return f"failed: {plain(f'{first} {rest[0]}' if first.endswith(':') and rest else first)}"


def release(hosts: Hosts, locks: Mapping[str, NodeLock]) -> None:
    """Give up whatever is held, on all nodes at once."""
    hosts.each(lambda host: locks[host.name].end(), [name for name in locks if name in hosts.connected])


def _about(cluster: str, command: str) -> dict[str, Any]:
    """What other runs and the history see of this run."""
    return {
        "run": secrets.token_hex(6),
        "who": whoami(),
        "pid": os.getpid(),
        "command": command,
        "cluster": cluster,
        "version": __version__,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _record(values: Mapping[str, Any]) -> str:
    """A JSON object in one line, without its opening brace: the script puts the time in front of it."""
    return json.dumps(values)[1:]


def _open(hosts: Hosts, cluster: str, locks: dict[str, NodeLock]) -> None:
    """Start the script on all nodes."""

    def start(host: Host) -> None:
        locks[host.name] = NodeLock(host, cluster)

    errors = hosts.each(start).errors
    for name, error in errors.items():
        if isinstance(error, ConnectionLostError | CommandTimeoutError):
            hosts.give_up(name, error)
    if failures := [NodeFailure(n, e.message, e.hint) for n, e in errors.items() if n in hosts.connected]:
        raise NodesError("locking the cluster", failures)


def _take(
    hosts: Hosts, locks: Mapping[str, NodeLock], about: Mapping[str, Any], *, wait_s: float | None, progress: Progress
) -> None:
    """Take the lock on all nodes, or on none: LockedError.

    Who waits holds nothing meanwhile, so two that wait cannot wait for each other.
    """
    order = in_order(hosts, locks)
    record, run = _record(about), str(about["run"])
    began = time.monotonic()
    waiting = False
    while busy := _try_all(hosts, locks, order, record):
        _not_by_ourselves(busy, run)
        left_s = 0.0 if wait_s is None else wait_s - (time.monotonic() - began)
        if left_s <= 0:
            raise LockedError(str(about["cluster"]), _everywhere(hosts, locks, busy), waited_s=wait_s)
        if not waiting:
            waiting = True
            progress.phase("waiting for the cluster's lock")
        node = next(name for name in order if name in busy)
        progress.detail(f"{node}: {busy[node]}")
        hosts.each(partial(_wait, locks, left_s), [node]).or_raise("waiting for the lock")


def in_order(hosts: Hosts, locks: Mapping[str, NodeLock]) -> Sequence[str]:
    """The one order in which everybody takes the nodes, whatever the order in his inventory: who has the first one gets
    the others too, and of two that start at once one wins."""
    return sorted(locks, key=lambda name: (hosts.nodes[name].host, name))


def _try_all(hosts: Hosts, locks: Mapping[str, NodeLock], order: Sequence[str], record: str) -> Mapping[str, Busy]:
    """Nodes whose lock another one holds. With any, nothing is held by us; with none, everything is."""
    for stage in (order[:1], order[1:]):
        found = hosts.each(lambda host: locks[host.name].try_lock(record), stage).or_raise("locking the cluster")
        if busy := {name: answer for name, answer in found.items() if answer is not None}:
            hosts.each(lambda host: locks[host.name].ask("unlock", "unlocked"), order).or_raise("unlocking the cluster")
            return busy
    return {}


def _not_by_ourselves(busy: Mapping[str, Busy], run: str) -> None:
    """Raises NodesError when the holder of a node's lock is this run: then two nodes of the inventory are one machine,
    and to wait would be to wait for oneself."""
    what = "another node of the inventory is the same machine: this run already holds its lock"
    fix = "keep one entry in the inventory for each machine; compare the nodes' `host`"
    if ours := [NodeFailure(n, what, fix) for n, found in busy.items() if found.holder and found.holder.run == run]:
        raise NodesError("locking the cluster", ours)


def _wait(locks: Mapping[str, NodeLock], timeout_s: float, host: Host) -> None:
    """Until the lock's holder on this node has given it up, or the time is over."""
    with suppress(CommandTimeoutError):
        locks[host.name].ask("wait", "free", timeout_s=timeout_s)


def _everywhere(hosts: Hosts, locks: Mapping[str, NodeLock], busy: Mapping[str, Busy]) -> Mapping[str, Busy]:
    """The same, and the other nodes that the same holders have, in inventory order. Those are only looked at: to try
    them could get in the way of one that is just about to take them."""
    known = {found.holder.run: found for found in busy.values() if found.holder is not None}
    others = [name for name in locks if name not in busy]
    answers = hosts.each(lambda host: locks[host.name].ask("look", "holder")[1], others).values
    held = {name: known[h.run] for name, text in answers.items() if (h := read_holder(text)) and h.run in known}
    return {name: found for name in locks if (found := busy.get(name) or held.get(name)) is not None}
