"""Follow a start from the agents' events and the server's log until a real completion, or until it surely failed."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from clusterctl.agent.events import Event, parse_event
from clusterctl.agent.reasons import MEANINGS
from clusterctl.errors import ClusterctlError
from clusterctl.hosts.engine.engine import LogChunk
from clusterctl.hosts.engine.lines import Lines
from clusterctl.hosts.host import Host
from clusterctl.inventory.model import Timeouts
from clusterctl.lock.run import Run
from clusterctl.modes.all import mode_of
from clusterctl.progress import Progress
from clusterctl.signatures import vllm as vllm_log
from clusterctl.signatures.start import KEEP, step_of
from clusterctl.signatures.text import shortened

TAIL_LINES = 2000


GRACE_S = 30
"""Seconds beyond the agents' own deadlines before an agent that says nothing at all is given up."""


LOOK_S = 10.0
"""Seconds between looks at whether all nodes give signs of life: as often as they give one (lock.BEAT_S)."""


COMES_BACK_POLL_S = 0.5
"""Seconds between looks at a container that the engine is about to start again (it says so in no stream)."""


SHOWN_LINES = 8


class StartFailedError(ClusterctlError):
    """The cluster did not come up: on which node, in which phase, what was seen, what it means, what to do."""

    def __init__(self, node: str, what: str, *, phase: str, lines: Sequence[str]) -> None:
        causes = vllm_log.causes(lines)
        text = [f"{node}: {what} (phase: {phase})"]
        text += [f"  | {shortened(line)}" for line in vllm_log.cause_lines(lines, SHOWN_LINES)]
        text += [f"  meaning: {cause.meaning} [{cause.name}]" for cause in causes[:3]]
        super().__init__("\n".join(text), hint="; ".join(dict.fromkeys(cause.fix for cause in causes[:3])) or None)
        self.node = node
        self.phase = phase
        self.causes = causes


@dataclass
class Start:
    """What is known of a start while it goes on, and what is left of it when it has ended."""

    phase: str = "containers"
    timings: dict[str, float] = field(default_factory=dict)
    """Phase → seconds it took, as seen from here."""
    kept: list[str] = field(default_factory=list)
    """Lines of the server that tell of its KV cache."""
    tails: dict[str, deque[str]] = field(default_factory=dict)
    entered: float = field(default_factory=time.monotonic)
    steps: Mapping[str, str] = field(default_factory=dict)
    """Phase of the head's agent → what goes on."""
    counted: Mapping[str, str] = field(default_factory=dict)
    """Event that counts nodes → what is counted."""

    def enter(self, phase: str) -> None:
        """Go to the next phase; the time of the one before is recorded."""
        now = time.monotonic()
        self.timings[self.phase] = self.timings.get(self.phase, 0.0) + now - self.entered
        self.phase, self.entered = phase, now


@dataclass(frozen=True)
class Followed:
    """A container whose log is read, from `since` on (Unix time on the node's own clock; 0 is its beginning)."""

    id: str
    since: float = 0


Item = tuple[str, LogChunk | None]


class _Reader:
    """The logs of all containers that are followed, in one queue, and what has come of each so far."""

    def __init__(self, run: Run, containers: Mapping[str, Followed], *, patient: bool) -> None:
        self._items: queue.Queue[Item] = queue.Queue()
        self._lines = {name: Lines() for name in containers}
        for name, container in containers.items():
            arguments = (run.hosts.connected[name], container, self._items, patient)
            threading.Thread(target=_read, args=arguments, daemon=True).start()

    def next(self, timeout_s: float) -> tuple[str, list[str] | None, bool] | None:
        """Node, lines that have become whole, and whether they are of stderr; no lines when its log has ended. None
        when nothing came in time."""
        try:
            name, chunk = self._items.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None
        if chunk is None:
            return name, None, False
        return name, list(self._lines[name].feed(chunk)), chunk.stream == "stderr"

    def rest(self, name: str) -> Iterator[str]:
        """What is left of a log that has ended."""
        yield from self._lines[name].end()


def follow(
    run: Run,
    containers: Mapping[str, Followed],
    *,
    after: int = -1,
    patient: bool = False,
    drain_s: float | None = None,
) -> Start:
    """Wait until the head's agent has seen a real completion. Raises StartFailedError as soon as failing is certain.

    Only servers with a higher number than `after` count: the one before may still be ending, for `drain_s` seconds
    (where that is more than timeouts.drain_s). With `patient` a cluster that heals by itself is waited for: it may fail
    and start again, its containers too, until the deadline.
    The waiting is for log frames that the engine pushes: nothing is polled. A container that ends closes its stream.
    A node that is cut off closes nothing: the lock knows which nodes give no sign of life.
    """
    head = run.inventory.head_name
    reader = _Reader(run, containers, patient=patient)
    mode, tails = mode_of(run.inventory), {name: deque[str](maxlen=TAIL_LINES) for name in containers}
    start = Start(tails=tails, steps=mode.steps, counted=mode.counted)
    deadline = time.monotonic() + _patience_s(run.inventory.timeouts, drain_s)
    look = time.monotonic() + LOOK_S
    while True:
        if time.monotonic() >= look:
            look = time.monotonic() + LOOK_S
            for silent, why in run.lock.lost().items():
                raise _cut_off(silent, why, start)
        if time.monotonic() >= deadline:
            what = "no completion until the deadline" if patient else "the agent reported nothing until the deadline"
            raise StartFailedError(head, what, phase=start.phase, lines=list(start.tails[head]))
        if (found := reader.next(min(look, deadline) - time.monotonic())) is None:
            continue
        name, lines, is_stderr = found
        if lines is None:
            start.tails[name].extend(reader.rest(name))
            raise _died(run.hosts.connected[name], containers[name].id, start)
        for line in lines:
            event = parse_event(line) if is_stderr else None
            if event is None:
                start.tails[name].append(line)
                if name == head:
                    _server_line(line, start, run.progress)
            elif name == head and event.server <= after:
                _show(event, run.progress)
            elif _agent_event(name, event, start, run.progress, is_head=name == head, patient=patient):
                start.enter("serving")
                return start


def _patience_s(timeouts: Timeouts, drain_s: float | None) -> float:
    """Seconds after which an agent that reports nothing has had all the time that it may take."""
    drained_s = max(timeouts.drain_s, drain_s or 0)
    return timeouts.ray_s + timeouts.load_s + drained_s + timeouts.stop_s + GRACE_S


def _read(host: Host, container: Followed, into: queue.Queue[Item], patient: bool) -> None:
    since = container.since
    try:
        while True:
            for chunk in host.engine.logs(container.id, follow=True, since=since):
                into.put((host.name, chunk))
            if not patient or not comes_back(host, container.id):
                return
            time.sleep(COMES_BACK_POLL_S)  # a log that ends at once, again and again, must not keep us busy
            since = host.engine.started_at(container.id)
    except ClusterctlError as error:
        into.put((host.name, LogChunk("stdout", f"clusterctl: {error.message}\n".encode())))
    finally:
        into.put((host.name, None))


def comes_back(host: Host, container: str) -> bool:
    """Wait while the engine is about to start the container again; whether it has."""
    while (found := host.engine.container(container)) is not None:
        if found.running and not found.restarting:
            return True
        if not found.restarting:
            return False
        time.sleep(COMES_BACK_POLL_S)
    return False


def _server_line(line: str, start: Start, progress: Progress) -> None:
    if step := step_of(line):
        progress.detail(step.text)
    if any(pattern.search(line) for pattern in KEEP):
        start.kept.append(line)


def _show(event: Event, progress: Progress) -> None:
    """What the server before does on its way out."""
    if event.name == "phase" and event.fields.get("phase") == "draining":
        progress.phase("stopping the server")


def _agent_event(name: str, event: Event, start: Start, progress: Progress, *, is_head: bool, patient: bool) -> bool:
    """Take one event into account. True when the cluster serves."""
    phase = event.fields.get("phase")
    failed_for_good = event.name == "phase" and phase == "failed"
    # A new server that has failed: the agent will try again, but what was asked for has not come true.
    # A follower that has lost its head: what became of that the head's own log says, or its end.
    harmless = ("requested",) if is_head else ("requested", "head-lost")
    failed_once = event.name == "restart" and event.fields.get("reason") not in harmless
    if failed_for_good or (failed_once and not patient):
        reason = str(event.fields.get("reason"))
        # The head also reports what happened elsewhere: then the lines of that node say why.
        ended = event.fields.get("node")
        lines = list(start.tails.get(ended if isinstance(ended, str) else name) or start.tails[name])
        lines = lines or [str(line) for line in event.fields.get("tail", ())]
        what = f"{event.fields.get('detail')}: {MEANINGS.get(reason, reason)}"
        raise StartFailedError(name, what, phase=start.phase, lines=lines)
    if failed_once:
        progress.detail(f"{name} starts again: {event.fields.get('detail')}")
    if not is_head:
        return False
    if event.name == "phase" and phase == "drained":
        # It waits for a word that nobody will say.
        what = f"its server was ended on request of {event.fields.get('by', 'somebody')} while it was waited for"
        raise StartFailedError(name, what, phase=start.phase, lines=[])
    if event.name in start.counted:
        joined = event.fields.get("joined", ())
        progress.detail(f"{len(joined)}/{event.fields.get('expected')} {start.counted[event.name]}")
    elif event.name == "phase" and phase in start.steps:
        start.enter(str(phase))
        progress.phase(start.steps[str(phase)])
    elif event.name == "phase" and phase == "loading":
        start.enter("loading")
        progress.phase("starting vLLM")
    return event.name == "phase" and phase == "serving"


def _cut_off(node: str, why: str, start: Start) -> StartFailedError:
    """Whatever it does, this run has lost its lock there by now, and may not finish what it began."""
    what = f"the node was lost while it was waited for: {why}"
    error = StartFailedError(node, what, phase=start.phase, lines=list(start.tails.get(node, ())))
    error.hint = "is the node on, and its network up? clusterctl status; then clusterctl up or down"
    return error


def _died(host: Host, container: str, start: Start) -> ClusterctlError:
    """A log stream ended: say what became of the container."""
    try:
        found = host.engine.container(container)
    except ClusterctlError as error:
        return error
    if found is None:
        what = "its container was removed"
    elif found.running:
        what = "the log of its container ended while it runs (the engine restarted, or the connection broke)"
    else:
        oom = " (killed: out of memory)" if found.oom_killed else ""
        what = f"its container ended with exit code {found.exit_code}{oom}"
    return StartFailedError(host.name, what, phase=start.phase, lines=list(start.tails[host.name]))
