"""Ranked causes from what all nodes said: pure, so that it can be tried on any evidence.

The order can be explained, and each cause says why it has its place:

- **certain**: seen as a fact (a node that does not answer, an error of `check`, a fault in the kernel's log while the
  container ran, the OOM killer, an engine that could not start the container);
- **likely**: a log line that is known, or the agent's own reason where nothing else is known;
- **possible**: seen, and harmless in other circumstances;
- **consequence**: what the others say once one has died; true, and no reason while another one is known;
- **past**: it happened and the cluster has healed: it serves.

Among equals the first in time stands first: the first fault causes the later ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from clusterctl import kernel_log, nccl_log, vllm_log
from clusterctl.events import FAILURES, MEANINGS
from clusterctl.findings.finding import Finding, is_error

SHOWN_WIDTH = 300
SHOWN_LINES = 3
LONGEST_LINE = 4000
"""Characters of a line that are looked at: some patterns take quadratic time on lines that are made for it."""
SETTLE_S = 60
"""A fault of the machine so many seconds before a container started may still be why it fails."""
FIRST_START = frozenset({"ray", "gate", "loading"})
"""Phases of an agent through which a first start passes."""
RECENT_S = 3600
"""On a node without a container, faults in the kernel's log older than this tell nothing of today."""

# What peers say when another one has died or cannot be reached. True, and no reason while there is another.
ECHOES = frozenset({"F26", "F35", "F44", "F55", "F60", "F61", "F62"})
# Reasons of agents that are a fact and no symptom.
EXACT = frozenset({"ray-nodes-wrong"})
# Lines that a healthy start may print too (vllm_log and nccl_log say so beside the pattern).
HARMLESS = frozenset({"F3", "F6", "F23", "F24", "F25", "F45"})
_OF_THE_NETWORK = re.compile(r"NCCL|NET/|nccl|Gloo|gloo|TCPStore|c10d|DistBackend|ibv_")
"""NCCL's table is read on lines that speak of the network only: «Connection refused» alone says too little."""

LOG_STAMP = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?Z ")
"""What the engine puts before every line when it is asked for times (RFC 3339, UTC)."""


class Certainty(StrEnum):
    """How sure it is that this is the cause; in the order in which causes are shown."""

    CERTAIN = "certain"
    LIKELY = "likely"
    POSSIBLE = "possible"
    CONSEQUENCE = "consequence"
    PAST = "past"


_ORDER = {certainty: index for index, certainty in enumerate(Certainty)}


@dataclass(frozen=True)
class Cause:
    """One thing that explains, or is explained by, what is wrong."""

    certainty: Certainty
    nodes: tuple[str, ...]
    code: str
    """A finding's code, a failure mode's number (F37), an agent's reason, or a container's state (oom-killed)."""
    seen: tuple[str, ...]
    """Lines or values, as the node wrote them."""
    meaning: str
    fix: str
    why: str
    """Why it stands where it stands."""
    t: float | None = None
    """When it was first seen: Unix time in seconds on the node's own clock; None where that is not known."""

    def to_json(self) -> dict[str, Any]:
        """The cause for machines."""
        return {**vars(self), "certainty": str(self.certainty), "nodes": list(self.nodes), "seen": list(self.seen)}

    def lines(self) -> list[str]:
        """The cause for a person."""
        when = f" at {datetime.fromtimestamp(self.t, UTC):%Y-%m-%d %H:%M:%S} UTC" if self.t else ""
        where = ", ".join(self.nodes) or "the cluster"
        return [
            f"{self.certainty} [{self.code}] {where}{when}",
            *(f"  | {line}" for line in self.seen),
            f"  means: {self.meaning}",
            f"  fix: {self.fix}",
            f"  ranked so because {self.why}",
        ]


@dataclass(frozen=True)
class ContainerEvidence:
    """One container of the cluster. Times are Unix seconds on the node's own clock."""

    name: str
    role: str
    status: str
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    """The engine's own reason for not starting it."""
    restarts: int = 0
    """How often the engine started it again."""
    started_t: float | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    """What its agent said last (state.json)."""
    log: str = ""
    """What it wrote, each line with its time as the engine puts it."""

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return self.status == "running"

    @property
    def serving(self) -> bool:
        """Whether its agent last saw a real completion."""
        return self.running and self.state.get("phase") == "serving" and bool(self.state.get("ready"))


@dataclass(frozen=True)
class NodeEvidence:
    """What one node said."""

    containers: tuple[ContainerEvidence, ...] | None = ()
    """None: could not be asked."""
    kernel: str = ""
    """dmesg, below its clock (kernel_log.CLOCK)."""
    ray: Mapping[str, str] = field(default_factory=dict)
    """Ray's session logs that tell of errors: file → text."""
    now: float | None = None


@dataclass(frozen=True)
class Evidence:
    """What was seen of the whole cluster, secrets taken out. Nodes are in the inventory's order."""

    head: str
    nodes: Mapping[str, NodeEvidence]
    unreachable: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    """Node → why it was not reached, and what to do about it."""
    findings: tuple[Finding, ...] = ()
    error: str | None = None
    """What the command that failed said."""

    @property
    def serving(self) -> bool:
        """Whether the head's agent last saw a real completion, and nothing is known to be missing."""
        node = self.nodes.get(self.head)
        return node is not None and any(container.serving for container in node.containers or ())

    @property
    def containers(self) -> bool:
        """Whether there is a container of the cluster anywhere."""
        return any(node.containers for node in self.nodes.values())

    @property
    def served_t(self) -> float | None:
        """When the head's agent last saw a completion, on its own clock; None: never."""
        node = self.nodes.get(self.head)
        canaries = [container.state.get("canary") for container in (node.containers if node else None) or ()]
        times = [_number(canary.get("t")) for canary in canaries if isinstance(canary, Mapping)]
        return max((t for t in times if t is not None), default=None)

    @property
    def survived_t(self) -> float | None:
        """What happened before this is no reason of what is wrong now: the cluster served afterwards."""
        return None if self.served_t is None else self.served_t - SETTLE_S

    @property
    def starting(self) -> bool:
        """Whether everything runs and is in its first start, which takes its time."""
        states = [container for node in self.nodes.values() for container in node.containers or ()]
        return (
            bool(states)
            and all(container.running and not container.restarts for container in states)
            and all(container.state.get("phase", "ray") in FIRST_START for container in states)
            and not any(container.state.get("restarts") for container in states)
        )


def situation(evidence: Evidence) -> str:
    """In one sentence: what there is."""
    states = [c for node in evidence.nodes.values() for c in node.containers or ()]
    asked = [name for name, node in evidence.nodes.items() if node.containers is None]
    missing = f" ({', '.join([*evidence.unreachable, *asked])} not asked)" if evidence.unreachable or asked else ""
    if not states:
        return f"down: no container of this cluster on any node that answered{missing}"
    if evidence.serving:
        return f"serving: the head's agent last saw a real completion{missing}"
    running = sum(container.running for container in states)
    return f"not serving: {running} of {len(states)} containers run{missing}"


def diagnose(evidence: Evidence) -> tuple[Cause, ...]:
    """Every cause that the evidence shows, the best first. Empty: nothing wrong was seen."""
    found = _merged([*_machines(evidence), *_findings(evidence), *_containers(evidence), *_logs(evidence)])
    found += _merged([*_agents(evidence, found), *_said(evidence, found)])
    order = {name: index for index, name in enumerate([*evidence.unreachable, *evidence.nodes])}
    return tuple(sorted(_settled(evidence, found), key=lambda cause: _place(cause, order)))


def _place(cause: Cause, order: Mapping[str, int]) -> tuple[int, bool, float, int]:
    """Unreachable nodes before findings, both before what has a time: they are true now."""
    timeless = -2.0 if cause.code == "node-unreachable" else -1.0
    first = min((order.get(node, len(order)) for node in cause.nodes), default=len(order))
    return _ORDER[cause.certainty], cause.t is None and _is_number(cause.code), cause.t or timeless, first


def _is_number(code: str) -> bool:
    return bool(re.fullmatch(r"F\d+|-", code))


def _merged(causes: Iterable[Cause]) -> list[Cause]:
    """The same cause on several nodes is one, with the first time it was seen."""
    merged: dict[tuple[str, str], Cause] = {}
    for cause in causes:
        key = (cause.code, cause.meaning)
        other = merged.get(key)
        if other is None:
            merged[key] = cause
            continue
        first, last = sorted((other, cause), key=lambda each: (_ORDER[each.certainty], each.t or 0))
        merged[key] = replace(
            first,
            nodes=tuple(dict.fromkeys([*first.nodes, *last.nodes])),
            seen=tuple(dict.fromkeys([*first.seen, *last.seen]))[:SHOWN_LINES],
        )
    return list(merged.values())


def _settled(evidence: Evidence, causes: list[Cause]) -> list[Cause]:
    """Echoes become consequences when there is something that is none; what a serving cluster survived is past."""
    reasons = [
        c for c in causes if c.code not in ECHOES and c.certainty in (Certainty.CERTAIN, Certainty.LIKELY)
    ]  # fmt: skip
    settled = []
    for cause in causes:
        reason = _nearest(reasons, cause.nodes)
        if cause.code in ECHOES and cause.certainty is Certainty.LIKELY and reason:
            said = f"others say so once one has failed, and there is a reason: [{reason.code}]"
            settled.append(replace(cause, certainty=Certainty.CONSEQUENCE, why=said))
        else:
            settled.append(cause)
    return settled


def _nearest(reasons: list[Cause], nodes: tuple[str, ...]) -> Cause | None:
    """A reason on the same node, else any."""
    return next((reason for reason in reasons if set(reason.nodes) & set(nodes)), next(iter(reasons), None))


def _machines(evidence: Evidence) -> Iterator[Cause]:
    """Nodes that do not answer, and what the kernels of the others say."""
    told = {node for finding in evidence.findings if finding.code == "node-unreachable" for node in finding.nodes}
    for node, (reason, fix) in evidence.unreachable.items():
        if node not in told:
            yield Cause(
                Certainty.CERTAIN,
                (node,),
                "node-unreachable",
                (_short(reason),),
                "the node was not reached; while it is away the others wait for it in vain",
                fix or "is the machine on, and does its SSH answer? clusterctl check",
                "no node can do without another one",
            )
    for name, said in evidence.nodes.items():
        yield from _kernel(name, said, evidence.survived_t, serving=evidence.serving)


def _kernel(name: str, node: NodeEvidence, survived_t: float | None, *, serving: bool) -> Iterator[Cause]:
    starts = [c.started_t for c in node.containers or () if c.started_t is not None]
    recent = node.now - RECENT_S if node.now is not None else None
    since = min(starts) - SETTLE_S if starts else recent
    if since is None:
        return
    if survived_t is not None and not serving:
        since = max(since, survived_t)
    lines = [(t, line) for t, line in kernel_log.timed(node.kernel) if t is not None and t >= since]
    times = {line: t for t, line in reversed(lines)}
    for hit in _once(vllm_log.explained(kernel_log.CAUSES, [line for _, line in lines])):
        yield Cause(
            Certainty.POSSIBLE if serving else Certainty.CERTAIN,
            (name,),
            hit.failure_mode if hit.failure_mode != "-" else "kernel",
            (_short(hit.line),),
            hit.meaning,
            hit.fix,
            "the cluster serves all the same" if serving else "the node's kernel said so while the container was there",
            next((t for line, t in times.items() if line.strip() == hit.line), None),
        )


def _findings(evidence: Evidence) -> Iterator[Cause]:
    for finding in evidence.findings:
        if is_error(finding):
            yield Cause(
                Certainty.POSSIBLE if evidence.serving else Certainty.CERTAIN,
                finding.nodes,
                finding.code,
                (_short(finding.seen),),
                finding.why,
                finding.fix,
                "the cluster serves, but its next start would fail"
                if evidence.serving
                else "`check` sees it now, and a start surely fails with it",
            )


def _containers(evidence: Evidence) -> Iterator[Cause]:
    """What the engine says of each container."""
    for name, node in evidence.nodes.items():
        for container in node.containers or ():
            yield from _state(name, container)
        if node.containers == () and evidence.containers:
            yield Cause(
                Certainty.LIKELY,
                (name,),
                "container-absent",
                ("no container of this cluster",),
                "other nodes have their container, this one has none: it was removed, or never started",
                "clusterctl up",
                "a cluster needs all of its nodes",
            )


def _state(node: str, container: ContainerEvidence) -> Iterator[Cause]:
    def cause(certainty: Certainty, code: str, *said: str) -> Cause:
        seen, meaning, fix, why = said
        return Cause(certainty, (node,), code, (_short(seen),), meaning, fix, why)

    if container.oom_killed:
        yield cause(
            Certainty.CERTAIN,
            "oom-killed",
            f"container {container.name}: OOMKilled, exit code {container.exit_code}",
            "the kernel killed the container's process: its memory or the node's was full (F9)",
            "free memory on the node, a smaller ray.object_store_bytes, or another machine for the rest",
            "the engine recorded it",
        )
    elif container.error and not container.running:
        known = vllm_log.causes([container.error])
        yield cause(
            Certainty.CERTAIN,
            known[0].failure_mode if known else "container-start",
            container.error,
            known[0].meaning if known else "the engine could not start the container",
            known[0].fix
            if known
            else "clusterctl check runs the image with the same flags and explains what it refuses",
            "the engine recorded it",
        )
    elif container.status == "exited" and (died := _DEATHS.get(container.exit_code)):
        meaning, fix = died
        yield cause(
            Certainty.LIKELY,
            f"exit-{container.exit_code}",
            f"container {container.name}: exited with code {container.exit_code}",
            meaning,
            fix,
            "the engine recorded it; who did it is not recorded",
        )
    elif container.status == "paused":
        yield cause(
            Certainty.CERTAIN,
            "container-paused",
            f"container {container.name}: paused",
            "somebody paused it: nothing in it runs",
            f"on the node: docker unpause {container.name}",
            "the engine says so",
        )


def _idle(node: str, container: ContainerEvidence) -> Cause | None:
    """What it means that a container does nothing, where nothing better is known of its node."""
    certainty, phase = Certainty.LIKELY, container.state.get("phase")
    if container.status == "created":
        code, seen, meaning = "container-created", "created, never started", "a run of `up` was cut off"
        fix = "clusterctl up"
    elif container.status == "exited" and container.exit_code == 0:
        code, seen = "container-stopped", "exited with code 0"
        meaning, fix = "it was stopped (docker stop, a `down` that was cut off), and nobody started it", "clusterctl up"
    elif container.status == "exited":
        code, seen = f"exit-{container.exit_code}", f"exited with code {container.exit_code}"
        meaning = "its first process ended, and nothing that is known says why"
        fix = f"read its last lines: clusterctl logs --node {node}"
    elif container.running and phase in ("draining", "drained"):
        code, seen = str(phase), f"its agent is {phase}"
        meaning = "the server was ended for a `down` or an `up` that is not done, or was cut off"
        fix = "clusterctl history says whose; then clusterctl up or down"
    else:
        return None
    seen = f"container {container.name}: {seen}"
    why = "nothing else is known of this node, and the cluster cannot serve like this"
    return Cause(certainty, (node,), code, (seen,), meaning, fix, why, _number(container.state.get("since")))


_DEATHS: Mapping[int, tuple[str, str]] = {
    137: (
        "its first process was killed (SIGKILL): by an operator, by a stop that took too long, or for memory",
        "on the node: dmesg (Killed process), docker events --since 1h; then clusterctl up",
    ),
    139: (
        "its first process crashed (SIGSEGV)",
        "on the node: dmesg (segfault) names the library; the same image on every node",
    ),
    125: ("the engine could not run it", "on the node: journalctl -u docker -n 50"),
    126: ("the image's python3 cannot be run", "clusterctl check: image-incomplete"),
    127: ("the image has no python3", "clusterctl check: image-incomplete"),
}
"""Exit code of a container → meaning and fix (128 + the signal's number; 125 to 127 are the engine's own)."""


def _logs(evidence: Evidence) -> Iterator[Cause]:
    """Lines that are known. On a cluster that serves they are past, and only where something was restarted."""
    for name, node in evidence.nodes.items():
        for container in node.containers or ():
            for certainty, hit, t in _hits(container.log, evidence.survived_t):
                if not evidence.serving:
                    yield _log_cause(name, certainty, hit, t)
        if not evidence.serving:
            for file, text in node.ray.items():
                for _, hit, t in _hits(text, None):
                    yield replace(
                        _log_cause(name, Certainty.POSSIBLE, hit, t),
                        seen=(_short(f"{file}: {hit.line}"),),
                        why="only Ray's own log says it",
                    )


def _log_cause(node: str, certainty: Certainty, hit: vllm_log.Cause, t: float | None) -> Cause:
    why = {
        Certainty.LIKELY: "the line is known, and nothing before it explains it",
        Certainty.POSSIBLE: "the line is known, and a healthy start may print it too",
    }[certainty]
    code = hit.failure_mode if hit.failure_mode != "-" else "log"
    return Cause(certainty, (node,), code, (_short(hit.line),), hit.meaning, hit.fix, why, t)


def _hits(text: str, since: float | None) -> Iterator[tuple[Certainty, vllm_log.Cause, float | None]]:
    """Lines of a log that are explained, with their time; of NCCL's table only what speaks of the network. Those that
    are known to be older than `since` are left out."""
    stamped = vllm_log.ANSI.sub("", text).splitlines()
    times: dict[str, float | None] = {}
    for line in stamped:
        stamp, bare = _unstamped(line)
        if stamp is not None and since is not None and stamp < since:
            continue
        if len(bare) > LONGEST_LINE:
            bare = f"{bare[: LONGEST_LINE // 2]} … {bare[-LONGEST_LINE // 2 :]}"
        times.setdefault(bare, stamp)
    lines = list(times)
    found = [*vllm_log.causes(lines), *nccl_log.causes([line for line in lines if _OF_THE_NETWORK.search(line)])]
    for hit in _once(found):
        harmless = hit.failure_mode in HARMLESS or "healthy start" in hit.meaning
        t = next((times[line] for line in lines if line.strip() == hit.line), None)
        yield (Certainty.POSSIBLE if harmless else Certainty.LIKELY), hit, t


def _once(hits: Iterable[vllm_log.Cause]) -> Iterator[vllm_log.Cause]:
    """Each line once, by what is most specific of it, and each failure mode once: two tables have the same."""
    lines, numbers = set[str](), set[str]()
    for hit in hits:
        if hit.line not in lines and hit.failure_mode not in numbers:
            yield hit
        lines.add(hit.line)
        if hit.failure_mode != "-":
            numbers.add(hit.failure_mode)


def _unstamped(line: str) -> tuple[float | None, str]:
    """A line's time as the engine put it (Unix seconds), and the line without it."""
    stamp = LOG_STAMP.match(line)
    if not stamp:
        return None, line
    t = datetime.fromisoformat(stamp[1]).replace(tzinfo=UTC).timestamp() + float(f"0{stamp[2] or '.0'}")
    return t, line[stamp.end() :]


def unstamped(text: str) -> list[str]:
    """A log's lines without the engine's times."""
    return [_unstamped(line)[1] for line in text.splitlines()]


def _agents(evidence: Evidence, found: list[Cause]) -> Iterator[Cause]:
    """The reasons that agents recorded, and how often something was restarted."""
    reasons = [cause for cause in found if cause.certainty in (Certainty.CERTAIN, Certainty.LIKELY)]
    for name, node in evidence.nodes.items():
        for container in node.containers or ():
            state = container.state
            restarts = _restarts(container)
            better = _nearest(reasons, (name,))
            if evidence.serving:
                if restarts:
                    yield _restarted(name, container, restarts)
                continue
            if waits := _waiting(name, container, better):
                yield waits
            if recorded := _recorded(state, evidence.survived_t):
                reason, detail, t = recorded
                exact = reason in EXACT
                why = "the node's agent recorded it" + (f", after {restarts} restarts" if restarts else "")
                if better is not None and not exact:
                    why += f"; what made it happen is better told by [{better.code}]"
                yield Cause(
                    Certainty.CERTAIN if exact else Certainty.CONSEQUENCE if better else Certainty.LIKELY,
                    (name,),
                    reason,
                    _agent_lines(container, detail),
                    MEANINGS.get(reason, reason),
                    f"read its lines (clusterctl logs --node {name}) and docs/runbooks/start-failed.md",
                    why,
                    t,
                )
            elif (better is None or name not in better.nodes) and (idle := _idle(name, container)):
                yield idle


def _recorded(state: Mapping[str, Any], survived_t: float | None) -> tuple[str, str, float | None] | None:
    """Why an agent ended, or last started something again in this outage: reason, detail, time."""
    if reason := state.get("reason"):
        return str(reason), str(state.get("detail") or ""), _number(state.get("since"))
    own = state.get("restarts")
    last = own[-1] if isinstance(own, list) and own and isinstance(own[-1], Mapping) else {}
    t = _number(last.get("t"))
    if not last.get("reason") or last["reason"] == "requested" or (t is not None and t < (survived_t or 0)):
        return None
    return str(last["reason"]), str(last.get("detail") or ""), t


def _waiting(node: str, container: ContainerEvidence, better: Cause | None) -> Cause | None:
    """What the head's gate waits for; a start passes through it, so it tells something only after one."""
    waits_for = container.state.get("waiting_for")
    if not container.running or container.state.get("phase") != "gate" or not waits_for:
        return None
    first = not container.state.get("restarts") and not container.state.get("canary")
    certainty, why = Certainty.LIKELY, "the head's agent says so, and cannot go on without"
    if first:
        certainty, why = Certainty.POSSIBLE, "every start waits here until all nodes are in Ray"
    elif better is not None:
        certainty, why = Certainty.CONSEQUENCE, f"the head's agent says so; why is better told by [{better.code}]"
    return Cause(
        certainty,
        (node,),
        "waiting",
        (_short(str(waits_for)),),
        "the server starts when exactly the declared nodes are in Ray, and not before",
        "clusterctl status: what runs on the nodes that it names? clusterctl check: are they fit?",
        why,
        _number(container.state.get("since")),
    )


def _restarts(container: ContainerEvidence) -> int:
    """Restarts that the engine counts, or the agent, whose record outlives them (and keeps the last ones only)."""
    total, own = container.state.get("restarts_total"), container.state.get("restarts")
    counted = total if isinstance(total, int) else len(own) if isinstance(own, list) else own
    return max(container.restarts, counted if isinstance(counted, int) else 0)


def _restarted(node: str, container: ContainerEvidence, restarts: int) -> Cause:
    own = container.state.get("restarts")
    last = own[-1] if isinstance(own, list) and own and isinstance(own[-1], Mapping) else container.state
    reason = last.get("reason")
    return Cause(
        Certainty.PAST,
        (node,),
        str(reason or "restarted"),
        (f"restarted {restarts} times" + (f", last: {_short(str(last.get('detail') or reason))}" if reason else ""),),
        FAILURES.get(str(reason), "something was restarted, and the cluster has healed"),
        "nothing to do now; when it comes again: clusterctl diagnose at once, while the log still tells of it",
        "the cluster serves again",
        _number(last.get("t")),
    )


def _agent_lines(container: ContainerEvidence, detail: str) -> tuple[str, ...]:
    said = vllm_log.cause_lines(unstamped(container.log), SHOWN_LINES - 1)
    return tuple(_short(line) for line in [detail, *said] if line)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _said(evidence: Evidence, found: list[Cause]) -> Iterator[Cause]:
    """What the failed command said, where that is known, or where nothing else is."""
    if not evidence.error:
        return
    lines = evidence.error.splitlines()
    numbers = {cause.code for cause in found}
    known = [hit for hit in vllm_log.causes(lines) if hit.failure_mode not in numbers]
    for hit in known:
        yield replace(_log_cause("", Certainty.LIKELY, hit, None), nodes=())
    if not known and not found:
        yield Cause(
            Certainty.POSSIBLE,
            (),
            "error",
            tuple(_short(line) for line in lines[:SHOWN_LINES]),
            "nothing that is known explains it",
            "read the nodes' logs; the first line that is no INFO is the one to look for",
            "it is all there is",
        )


def _short(line: str) -> str:
    """A line cut in the middle: who says it stands at its beginning, what it says at its end."""
    line = " ".join(line.split())
    if len(line) <= SHOWN_WIDTH:
        return line
    return f"{line[: SHOWN_WIDTH // 3]} … {line[-SHOWN_WIDTH * 2 // 3 :]}"
