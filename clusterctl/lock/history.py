"""`history`: who did what when, as recorded on the nodes (scripts/lock.sh), and what the agents restarted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clusterctl.agent.paths import STATE_PATH, container_name
from clusterctl.agent.state import agent_state
from clusterctl.errors import ClusterctlError, NodeFailure, NodesError
from clusterctl.facts.containers import json_in
from clusterctl.facts.fact import Fact, Unknown
from clusterctl.hosts.host import Host, Hosts
from clusterctl.hosts.ssh.errors import HostError

SCRIPT = Path(__file__).with_name("scripts").joinpath("history.sh").read_bytes()


SHOWN_STARTS = 3
"""Starts that are shown beside the latest one."""


LONGEST = 500
"""Characters of a text from a node that are shown."""


CUT_OFF = "cut off: "
"""How the outcome begins of a run whose lock ended without the run's own end; a part of `history --json`."""


@dataclass(frozen=True)
class Note:
    """What a run reported as changed."""

    t: float
    text: str


@dataclass(frozen=True)
class Run:
    """One run of clusterctl that held the cluster's lock, put together from what all nodes have of it."""

    run: str
    t: float | None
    """When it began: Unix time in seconds, of the first node that knows; None when that is no longer kept."""
    who: str
    command: str
    version: str
    outcome: str | None
    """ok; failed: why; interrupted; cut off: eof or silence. None: still running, or its nodes went down with it."""
    seconds: float | None
    notes: tuple[Note, ...]
    nodes: tuple[str, ...]
    cut_off: Mapping[str, str]
    """Node → reason, where the lock ended without the run's own end: eof (the channel ended), silence."""
    timings_s: Mapping[str, float] | None = None
    """Phase → seconds of the start that it made, with their `total`; None: it started no cluster, or failed to."""

    @property
    def ended(self) -> bool:
        """Whether the run itself recorded how it ended."""
        return self.outcome is not None and not self.outcome.startswith(CUT_OFF)

    @property
    def at(self) -> float:
        """Where it belongs among others."""
        return self.t if self.t is not None else min((note.t for note in self.notes), default=0.0)


@dataclass(frozen=True)
class Restart:
    """Something that the agent of a node restarted by itself."""

    t: float
    node: str
    scope: str
    """server, gang or container."""
    reason: str
    detail: str

    @property
    def at(self) -> float:
        """Where it belongs among others."""
        return self.t


@dataclass(frozen=True)
class NodeHistory:
    """What one node has: the records of its file that can be read, how many cannot, and its agent's restarts."""

    records: tuple[Mapping[str, Any], ...]
    bad_lines: int
    restarts: tuple[Restart, ...] | Unknown


@dataclass(frozen=True)
class History:
    """What the nodes have together, oldest first."""

    cluster: str
    entries: tuple[Run | Restart, ...]
    bad_lines: Mapping[str, int]
    """Node → lines that are no record (a machine that lost its power while it wrote one)."""
    unread: Mapping[str, str]
    """Node → why nothing was read from it."""
    no_restarts: Mapping[str, str]
    """Node → why its agent's restarts could not be read."""

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "cluster": self.cluster,
            "runs": [asdict(entry) for entry in self.entries if isinstance(entry, Run)],
            "restarts": [asdict(entry) for entry in self.entries if isinstance(entry, Restart)],
            "bad_lines": dict(self.bad_lines),
            "unread": dict(self.unread),
            "no_restarts": dict(self.no_restarts),
        }


def read_history(hosts: Hosts, cluster: str, nodes: Sequence[str], *, limit: int) -> History:
    """The last `limit` entries that the named nodes have; a node that cannot be read is named. Changes nothing."""
    unread = {name: error.message for name, error in hosts.unreachable.items() if name in nodes}
    reached = [name for name in nodes if name in hosts.connected]
    outcomes = hosts.each(lambda host: _read(host, cluster), reached)
    unread |= {name: error.message for name, error in outcomes.errors.items()}
    return history(cluster, outcomes.values, unread, limit=limit)


def last_starts(host: Host, cluster: str) -> tuple[float, ...]:
    """Seconds that the latest starts took in all, the latest last, as the node's history has them; none where it
    cannot be read: they only stand beside this one's."""
    try:
        records, bad_lines = parse(_script(host, cluster, "read").decode(errors="replace"))
    except ClusterctlError:
        return ()
    found = sorted(runs({host.name: NodeHistory(records, bad_lines, ())}), key=lambda run: run.at)
    totals = [run.timings_s["total"] for run in found if run.timings_s and "total" in run.timings_s]
    return tuple(totals[-SHOWN_STARTS:])


def forget_history(hosts: Hosts, cluster: str, nodes: Sequence[str]) -> None:
    """Remove the file from the named nodes. Raises NodesError with every node where that failed."""
    outcomes = hosts.each(lambda h: _script(h, cluster, "forget"), [n for n in nodes if n in hosts.connected])
    errors: dict[str, ClusterctlError] = {**hosts.unreachable, **outcomes.errors}
    if failures := [NodeFailure(n, errors[n].message, errors[n].hint) for n in nodes if n in errors]:
        raise NodesError("removing the history", failures)


def _read(host: Host, cluster: str) -> NodeHistory:
    records, bad_lines = parse(_script(host, cluster, "read").decode(errors="replace"))
    return NodeHistory(records, bad_lines, restarts_in(host.name, json_in(host, container_name(cluster), STATE_PATH)))


def _script(host: Host, cluster: str, what: str) -> bytes:
    done = host.connection.run(["sh", "-s", "--", cluster, what], stdin=SCRIPT, read_only=what == "read")
    if done.exit_code != 0:
        reason = plain(done.stderr.decode(errors="replace")) or f"exit code {done.exit_code}"
        raise HostError(host.name, f"cannot {what} its history: {reason}")
    return done.stdout


def parse(text: str) -> tuple[tuple[Mapping[str, Any], ...], int]:
    """The records of a file, and how many lines are none."""
    records, bad = [], 0
    for line in text.splitlines():
        record = _record(line)
        if record is None:
            bad += 1
        else:
            records.append(record)
    return tuple(records), bad


def _record(line: str) -> Mapping[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    kept = isinstance(record, dict) and isinstance(record.get("t"), int | float) and isinstance(record.get("run"), str)
    return record if kept and isinstance(record.get("event"), str) else None


def restarts_in(node: str, state: Fact[Mapping[str, Any]]) -> tuple[Restart, ...] | Unknown:
    """The restarts in an agent's state file; none without one."""
    if isinstance(state, Unknown):
        return Unknown(state.reason)
    return tuple(
        Restart(each.t, node, plain(each.scope), plain(each.reason), plain(each.detail))
        for each in agent_state(state).restarts
        if each.t is not None
    )


def history(cluster: str, nodes: Mapping[str, NodeHistory], unread: Mapping[str, str], *, limit: int) -> History:
    """Put together what the nodes have. Pure."""
    restarts = [each for node in nodes.values() if isinstance(node.restarts, tuple) for each in node.restarts]
    entries: list[Run | Restart] = [*runs(nodes), *restarts]
    return History(
        cluster=cluster,
        entries=tuple(sorted(entries, key=lambda entry: entry.at)[-limit:]),
        bad_lines={name: node.bad_lines for name, node in nodes.items() if node.bad_lines},
        unread=unread,
        no_restarts={name: node.restarts.reason for name, node in nodes.items() if isinstance(node.restarts, Unknown)},
    )


def runs(nodes: Mapping[str, NodeHistory]) -> Iterator[Run]:
    """Every run once, whatever number of nodes has it."""
    found: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for node, kept in nodes.items():
        for record in kept.records:
            found.setdefault(record["run"], []).append((node, record))
    for run, records in found.items():
        yield _run(run, records)


def _run(run: str, records: Sequence[tuple[str, Mapping[str, Any]]]) -> Run:
    by_event: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for node, record in records:
        by_event.setdefault(record["event"], []).append((node, record))
    begun = dict(by_event.get("begin", ()))
    begin = next(iter(begun.values()), {})
    end = next((record for _, record in by_event.get("end", ())), None)
    cut_off = {node: plain(record.get("reason")) for node, record in by_event.get("cut-off", ())}
    outcome, seconds = None, None
    if end is not None:
        outcome, seconds = plain(end.get("outcome")), _number(end.get("seconds"))
    elif cut_off:
        outcome = f"{CUT_OFF}{', '.join(sorted(set(cut_off.values())))}"
        # Both times are of one node's clock.
        took = [record["t"] - begun[node]["t"] for node, record in by_event["cut-off"] if node in begun]
        seconds = float(max(took)) if took else None
    texts: dict[str, Note] = {}
    for _, record in by_event.get("note", ()):
        text = plain(record.get("text"))
        texts.setdefault(text, Note(float(record["t"]), text))
    return Run(
        run=plain(run),
        t=_number(begin.get("t")),
        who=plain(begin.get("who")) or "?",
        command=plain(begin.get("command")) or "?",
        version=plain(begin.get("version")),
        outcome=outcome,
        seconds=seconds,
        notes=tuple(texts.values()),
        nodes=tuple(dict.fromkeys(node for node, _ in records)),
        cut_off=cut_off,
        timings_s=next((_timings(record) for _, record in by_event.get("start", ())), None),
    )


def _timings(record: Mapping[str, Any]) -> Mapping[str, float]:
    said = record.get("timings_s")
    named = said.items() if isinstance(said, Mapping) else ()
    return {plain(phase): number for phase, each in named if (number := _number(each)) is not None}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def plain(value: object) -> str:
    """A text from a node as it may be shown: no control characters, which a terminal would obey, and not too long."""
    text = "" if value is None else " ".join(str(value).split())
    return "".join(character for character in text if character.isprintable())[:LONGEST]


def utc(t: float) -> str:
    """Unix time in seconds as ISO 8601, UTC."""
    try:
        return datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):  # a time that no calendar has
        return "?"


def duration(seconds: float) -> str:
    """Roughly how long: 12 s, 3 min, 5 h, 2 d."""
    for unit, size, upto in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172800)):
        if seconds < upto:
            return f"{max(0, seconds) / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
