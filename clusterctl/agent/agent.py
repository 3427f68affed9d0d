"""First process of a clusterctl container. Standard library only, run by the image's own python3.

On every node it runs `ray start --block` as its child. On the head it is also the gate: it starts the server only
when exactly the declared nodes with exactly their GPUs are in Ray, watches it, and calls it ready only when a
completion with at least one token came back from the served model (`/health` stays 200 while generation is dead:
lab-facts, `--enforce-eager`).

Healing: until `up` has seen a completion and adopted the cluster (the file `adopted`), every failure is final, said
and ends the container, so that `up` fails at once. From then on, with supervision on, a failure is recorded and
mended: the server is started again, and when that does not help the agent ends, the engine's restart policy starts
the container anew, and the workers, who see their head's control store refuse connections, do the same. There is a
back-off and a limit; a node that is missing is waited for as long as it takes.

What it writes:
- events, one JSON object a line, on stderr (`docker logs` keeps the two streams apart, also after the container's
  death): {"event": …, "t": Unix seconds, …}. clusterctl/events.py is the reader;
- the server's and Ray's output, untouched, on stdout;
- state.json, replaced atomically, the answer to «what are you doing» for `status`; it outlives the container's
  restarts, and with it the record of them.

What it reads (rendered by clusterctl, planning/files.py): agent.json once; server.json at each start of the server;
settings.json whenever a value is needed, so that these can be changed while it runs; request.json on SIGUSR1.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import http.client
import json
import os
import re
import signal
import ssl
import sys
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, NamedTuple

CONFIG_DIR = Path("/etc/clusterctl")
STATE_DIR = Path("/run/clusterctl")
CHILDREN = Path(__file__).with_name("children.py")
GO = b"go\n"
"""What the server's process waits for on its stdin (children.py)."""
TAIL_LINES = 60
"""Last lines of the server's output kept to say why it died."""
KEPT_LINES = 200
"""Lines that match the configuration's `keep_lines` kept in the state (the KV cache's size; a line a rank)."""
KEPT_RESTARTS = 50
"""Restarts kept in the state with their reasons; `restarts_total` counts on."""
LOADING_STOP_S = 10
"""Seconds for a server that does not serve yet: it has nothing to lose, and while it waits for a peer that is gone it
does not hear SIGTERM (vLLM 0.32: `down` took all of stop_s, 60 s, in the lab)."""
RAY_STOP_S = 5
"""Seconds for Ray to end by itself. With the server gone it holds nothing that is worth more."""
LAST_WORDS_S = 0.5
"""Seconds for output that is on its way when a process has ended."""
POLL_S = 0.1
"""Seconds between looks at a port that is about to open; a refused connect costs microseconds."""
HEAD_POLL_S = 1.0
"""Seconds between a worker's looks at its head. Ray's head needs several to start again, so none is missed."""
RAYLET_POLL_S = 0.5
"""Seconds between looks at the raylets' ports while the gate is closed."""
CANARY_TIMEOUT_S = 300
"""A first completion may compile kernels; vLLM itself gives up on a step after 300 s
(VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS, vLLM 0.32)."""
HEAD_REFUSALS = 2
"""Refusals in a row that count: one may be a full queue of connections."""
METRICS_TIMEOUT_S = 5
LAST_LOOK_S = 15
"""For /metrics when a canary had no answer: an API process under heavy load is slow, and not dead for it."""
LAST_LOOKS_APART_S = 5
DRAIN_POLL_S = 0.2
STABLE_S = 60
"""Seconds of service after which a failure counts as the first again."""
ACTORS_GONE_S = 30
"""Seconds for Ray to end the workers of a server that has died (3 s in the lab)."""
PROBE_TRIES = 3
"""Deaths of the probe in a row, without an answer between them, before Ray counts as broken."""

SERVER_REASONS = frozenset(
    {"server-exited", "no-completion", "load-timeout", "server-hangs", "node-lost", "worker-lost"}
)
"""What a new server may mend; anything else needs a new Ray cluster."""
WAITED_FOR = frozenset({"ray-nodes-missing", "head-lost"})
"""Not this node's failure: another one is away, for however long. They do not count towards the limit."""
PROGRESS = re.compile(
    r"^vllm:(?:iteration_tokens_total_count|generation_tokens_total|prompt_tokens_total)(?:\{.*\})? (\S+)$",
    re.MULTILINE,
)
"""Counters that only a working engine moves (/metrics, vLLM 0.32). Counters of requests also move when clients give
up on a dead one."""

BUSY = "busy-*"
"""Files by which API processes say that they answer requests: busy-PID (clusterctl_middleware.py). The engine's own
count (/metrics) is made after a step, and knows nothing of a request that came meanwhile, or is being tokenized."""
REQUESTS = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{.*\})? (\S+)$", re.MULTILINE)

DEFAULT_SETTINGS: Mapping[str, float] = {
    "supervise": True,
    "ray_timeout_s": 180.0,
    "load_timeout_s": 3600.0,
    "drain_s": 30.0,
    "stop_s": 60.0,
    "canary_interval_s": 30.0,
    "hang_s": 120.0,
    "max_restarts": 8,
}
"""What settings.json holds for an inventory that says nothing (tested against it). For a file that a loss of power
emptied: it is replaced while the cluster runs, and a node must not fail for it."""

OWN_CHILDREN: set[int] = set()
"""Process ids of children that asyncio will collect; any other zombie was adopted."""
STARTING: set[str] = set()
"""Names of children that are being started."""


class GiveUpError(Exception):
    """The node cannot go on as it is; `reason` is one of the codes that clusterctl/events.py explains."""

    def __init__(self, reason: str, detail: str, **fields: object) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.fields = fields


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
        }
        if canary := self.before.get("canary"):
            self.state["canary"] = canary  # until when it served, so that `diagnose` knows what it has survived

    def phase(self, phase: str, **fields: object) -> None:
        """Enter a phase: an event, and the state says so from now on."""
        self.state.update(phase=phase, since=time.time(), **fields)
        self.event("phase", phase=phase, **fields)

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


class Child:
    """A child process in a process group of its own, so that it can be ended with its descendants."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.process = process

    @classmethod
    async def start(cls, name: str, *argv: str, capture: bool = False, env: Mapping[str, str] | None = None) -> Child:
        """Start `children.py NAME ARGV…`; with `capture`, stdout and stderr come back as one stream."""
        pipe = asyncio.subprocess.PIPE if capture else None
        # stderr is the agent's own channel for events, so a child that is not captured writes both to stdout.
        STARTING.add(name)  # until its process id is known, no zombie can be told from it
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(CHILDREN), name, *argv),
                stdin=pipe or asyncio.subprocess.DEVNULL,
                stdout=pipe if capture else 1,
                stderr=asyncio.subprocess.STDOUT if capture else 1,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
            OWN_CHILDREN.add(process.pid)
        finally:
            STARTING.discard(name)
        return cls(name, process)

    def say(self, line: bytes) -> None:
        """Write one line to a captured child, the only one it will get."""
        if self.process.stdin is not None:
            with contextlib.suppress(ConnectionError):  # it has ended, and that is seen elsewhere
                self.process.stdin.write(line)
                self.process.stdin.close()

    async def wait(self) -> int:
        """Its exit code, once it has ended.

        Not asyncio's own wait(), which in several releases of Python 3.11 and 3.12 waits for the end of the pipes too
        (python/cpython gh-119710): a child that is killed leaves descendants that hold them open.
        """
        while (code := self.process.returncode) is None:
            await asyncio.sleep(POLL_S)
        OWN_CHILDREN.discard(self.process.pid)
        return code

    async def end(self, timeout_s: float) -> bool:
        """SIGTERM, then SIGKILL to its whole group at the deadline. True when it went by itself."""
        if self.process.returncode is None and timeout_s:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
        try:
            await asyncio.wait_for(self.wait(), timeout_s)
            gracefully = True
        except TimeoutError:
            gracefully = False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.wait()
        return gracefully


class Looks:
    """What the probe saw last, and a way to wait for the next."""

    def __init__(self) -> None:
        self.latest: dict[str, Any] = {"nodes": {}, "raylets": 0, "workers": {}}
        self._changed = asyncio.Event()

    def take(self, look: dict[str, Any]) -> None:
        """A new look."""
        self.latest = look
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Return when the probe has seen something else."""
        await self._changed.wait()


class Agent:
    """The node's tasks, in the order of their names."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.is_head = config["role"] == "head"
        self.journal = Journal(config["node"], config["role"])
        self.server_config: dict[str, Any] = {}
        self.last_settings: dict[str, Any] = dict(DEFAULT_SETTINGS)
        self.ray: Child | None = None
        self.server: Child | None = None
        self.probe: Child | None = None
        self.forwarding: asyncio.Task[None] | None = None
        self.looks = Looks()
        self.stop = asyncio.Event()
        self.request = asyncio.Event()
        self.went_well_since: float | None = None
        self.serving_with: frozenset[str] = frozenset()
        self.kept: list[str] = []
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)

    async def run(self) -> int:
        """Do the node's job until SIGTERM (exit code 0), or until it cannot be done or has to be begun anew (1).

        SIGUSR1 is a request (request.json; without one: drain). `down` drains the server first, then stops Ray on the
        workers while the head is still there (a raylet without its head takes 30 s to end: Ray 2.60), then the head.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        loop.add_signal_handler(signal.SIGUSR1, self.request.set)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self._note_return()
        work = asyncio.create_task(self._work())
        stopping = asyncio.create_task(self.stop.wait())
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if self.stop.is_set():
            return await self._stopped(work)
        error = work.exception()
        if not isinstance(error, GiveUpError):
            error = GiveUpError("agent-bug", f"{type(error).__name__}: {error}")
        return await self._failed(work, error)

    def _note_return(self) -> None:
        """A container that was here before says how its earlier life ended."""
        phase = self.journal.before.get("phase")
        if phase in ("stopping", "stopped"):
            self.journal.restart("container", "started-again", "the container was stopped, and started again")
        elif phase not in (None, "restarting"):
            detail = f"it had ended without a word ({phase}): killed, out of memory, or the node lost its power"
            self.journal.restart("container", "container-ended", detail)

    async def _stopped(self, work: asyncio.Task[None]) -> int:
        served = self.journal.state["ready"]
        self.journal.phase("stopping", ready=False)
        settings = self.settings()
        if served:
            await self._let_requests_end(settings["drain_s"])
        await self._end_children(work, server_s=stop_s(settings, served=served), ray_s=RAY_STOP_S)
        if work.done() and not work.cancelled():
            work.exception()  # taken note of: what fails while everything is being stopped is no failure
        self.journal.phase("stopped")
        return 0

    async def _failed(self, work: asyncio.Task[None], error: GiveUpError) -> int:
        """Say why, before anything is torn down: whoever waits learns it at once."""
        self.journal.state.update(ready=False, reason=error.reason, detail=error.detail)
        if not self.heals():
            self.journal.phase("failed", reason=error.reason, detail=error.detail, **error.fields)
            await self._end_children(work, server_s=self.settings()["stop_s"], ray_s=RAY_STOP_S)
            return 1
        failures = self._count(error)
        limit = self.settings()["max_restarts"]
        if failures > limit:
            detail = f"gave up after {limit} restarts in a row; the last time: {error.detail}"
            self.journal.phase("failed", **{**error.fields, "reason": error.reason, "detail": detail})
            await self._end_children(work, server_s=0, ray_s=0)
            # The container goes on, so that the engine does not start it again; `up` replaces it.
            await self.stop.wait()
            self.journal.phase("stopped")
            return 0
        scope = "gang" if self.is_head else "node"
        self.journal.restart(scope, error.reason, error.detail)
        delay_s = back_off_s(failures)
        self.journal.phase("restarting", reason=error.reason, detail=error.detail, after_s=delay_s)
        await self._end_children(work, server_s=0, ray_s=0)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), delay_s)
            self.journal.phase("stopped")
        return 1

    async def _end_children(self, work: asyncio.Task[None], *, server_s: float, ray_s: float) -> None:
        # What reads the server's output goes on until the server has ended: a full pipe would keep it from ending.
        await self._end(self.server, server_s)
        work.cancel()
        await asyncio.wait({work, *([self.forwarding] if self.forwarding else [])}, timeout=LAST_WORDS_S)
        await self._end(self.probe, 0)
        await self._end(self.ray, ray_s)

    async def _end(self, child: Child | None, timeout_s: float) -> None:
        if child is not None and not await child.end(timeout_s) and timeout_s:
            self.journal.event("killed", child=child.name, after_s=timeout_s)

    def settings(self) -> dict[str, Any]:
        """Time-outs and supervision as they are now; as they were last while the file cannot be read."""
        self.last_settings |= read_json(CONFIG_DIR / "settings.json")
        return self.last_settings

    def heals(self) -> bool:
        """Whether a failure is mended: `up` has seen the cluster serve, and supervision is on."""
        return bool(self.settings()["supervise"]) and (CONFIG_DIR / "adopted").exists()

    def _count(self, error: GiveUpError) -> int:
        """Failures in a row, this one included."""
        well_s = time.monotonic() - self.went_well_since if self.went_well_since is not None else 0
        before = 0 if well_s >= STABLE_S else self.journal.state["failures"]
        self.journal.state["failures"] = before + (error.reason not in WAITED_FOR)
        self.went_well_since = None
        return int(self.journal.state["failures"])

    def _going_well(self) -> None:
        """After a while of service the next failure is the first again, also in another life of the container."""
        well_s = time.monotonic() - self.went_well_since if self.went_well_since is not None else 0
        if self.journal.state["failures"] and well_s >= STABLE_S:
            self.journal.state["failures"] = 0
            self.journal.save()

    async def _work(self) -> None:
        self.journal.phase("ray")
        where = (self.config["head_address"], str(self.config["gcs_port"]))
        self.ray = await Child.start("ray", *where, self.config["role"], *self.config["ray_argv"])
        others = [self._watch_probe(), self._serve()] if self.is_head else [self._watch_head()]
        await first_failure(self._watch_ray(self.ray), *others)

    async def _watch_ray(self, ray: Child) -> None:
        if not self.is_head:
            self.went_well_since = time.monotonic()
        code = await ray.wait()
        raise GiveUpError("ray-exited", f"`ray start` ended with exit code {code}", exit_code=code)

    async def _watch_head(self) -> None:
        """A worker's Ray belongs to one life of its head's: when the control store is gone, so is the cluster (F62).

        Refused means that the head's machine answers and its Ray does not run. Silence is a partition or a machine
        without power: Ray itself decides how long it hopes.
        """
        address, port = self.config["head_address"], self.config["gcs_port"]
        been_there, refusals = False, 0
        while True:
            answer = await reach(address, port)
            been_there = been_there or answer == "open"
            refusals = refusals + 1 if answer == "refused" else 0
            if been_there and refusals >= HEAD_REFUSALS and self.heals():
                raise GiveUpError("head-lost", f"Ray's control store on {address}:{port} refuses connections")
            self._going_well()
            await asyncio.sleep(HEAD_POLL_S)

    async def _watch_probe(self) -> None:
        """Take the probe's looks as they come. It only looks: when it dies it is started again, nothing else is."""
        died = 0
        while died < PROBE_TRIES:
            where = (self.config["head_address"], str(self.config["gcs_port"]))
            self.probe = probe = await Child.start("probe", *where, capture=True)
            assert probe.process.stdout is not None  # noqa: S101 (captured above)
            while line := await probe.process.stdout.readline():
                if line.startswith(b'{"nodes":'):
                    died = 0
                    self._take_look(json.loads(line))
                else:
                    os.write(1, line)
            code = await probe.wait()
            died += 1
        raise GiveUpError("probe-died", f"the probe of Ray's nodes ended with exit code {code}", exit_code=code)

    def _take_look(self, look: dict[str, Any]) -> None:
        if look["nodes"] != self.journal.state.get("nodes"):
            expected = self.config["expected_gpus"]
            joined = sorted(set(look["nodes"]) & set(expected))
            self.journal.event("nodes", joined=joined, expected=len(expected))
        self.journal.state.update(look)
        self.journal.save()
        self.looks.take(look)

    async def _serve(self) -> None:
        """Start the server, again and again, for as long as that is asked for or mends what was wrong."""
        while True:
            self.journal.state["server"] += 1
            self.server_config = read_json(CONFIG_DIR / "server.json") or self.server_config
            try:
                await unless(self.request, self._gate_and_serve())
            except GiveUpError as error:
                # While it is being stopped, what fails is the stopping: refused canaries, the server's own end.
                mendable = error.reason in SERVER_REASONS and not self._failed_before() and not self.stop.is_set()
                if not mendable or not self.heals():
                    raise
                self._count(error)
                self.journal.state.update(ready=False)
                self.journal.restart("server", error.reason, error.detail)
                await self._end(self.server, 0)
            else:
                await self._carry_out(self._take_request())

    def _failed_before(self) -> bool:
        """Whether a new server was tried already, and did not serve for long."""
        well_s = time.monotonic() - self.went_well_since if self.went_well_since is not None else 0
        return self.journal.state["failures"] > 0 and well_s < STABLE_S

    def _take_request(self) -> dict[str, Any]:
        self.request.clear()
        path = STATE_DIR / "request.json"
        request = read_json(path)
        path.unlink(missing_ok=True)
        return {"action": "drain", "by": "a signal", **request}

    async def _carry_out(self, request: dict[str, Any]) -> None:
        settings = self.settings()
        served, drain_s = self.journal.state["ready"], request.get("drain_s", settings["drain_s"])
        # With `action`, so that who looks can tell a server that ends from one that comes back.
        self.journal.phase("draining", ready=False, by=request["by"], action=request["action"])
        if served:
            await self._let_requests_end(drain_s)
        # Zero is a person's word for «at once»: then there is no time to tidy up either, Ray does it.
        await self._end(self.server, stop_s(settings, served=served) if drain_s else 0)
        while request["action"] == "drain":
            self.journal.phase("drained", ready=False, by=request["by"])
            await self.request.wait()
            request = self._take_request()
        self.journal.restart("server", "requested", f"by {request['by']}")

    async def _let_requests_end(self, drain_s: float) -> None:
        """Have new requests refused (clusterctl_middleware.py) and wait until none is running, or the time is over."""
        with contextlib.suppress(OSError):  # a full disk: they come in then, and are waited for
            (STATE_DIR / "draining").touch()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                while await asyncio.to_thread(requests_running, self.server_config):
                    await asyncio.sleep(DRAIN_POLL_S)
                await asyncio.sleep(LAST_WORDS_S)  # the last bytes of the last answer

    async def _gate_and_serve(self) -> None:
        for left in (STATE_DIR / "draining", *STATE_DIR.glob(BUSY)):
            left.unlink(missing_ok=True)
        self.tail.clear()
        self.kept = []
        self.serving_with = frozenset()
        # The server's modules load while Ray forms (10 s on an idle machine with vLLM 0.32); it does nothing with them,
        # and knows nothing of Ray, before it is told to go on.
        self.server_config["key"] = key = api_key(self.server_config)  # the file may be replaced while it runs
        secret = {"VLLM_API_KEY": key} if key else {}
        self.server = server = await Child.start("server", *self.server_config["server_argv"], capture=True, env=secret)
        self.forwarding = asyncio.create_task(self._forward(server))

        async def serve() -> None:
            await self._gate()
            self._free_shared_memory()
            self.journal.phase("loading")
            server.say(GO)
            await first_failure(self._answering(), self._nodes_stay())

        await first_failure(self._exited(server, self.forwarding), serve())

    async def _gate(self) -> None:
        """Wait until exactly the declared nodes, each with exactly its GPUs, are alive in Ray, and no worker of an
        earlier server is.

        While the cluster heals, nodes are waited for without end (a machine may be off for hours); but first the gang
        is formed anew once, in case it is Ray that does not see them.
        """
        self.journal.phase("gate")
        timeout_s = self.settings()["ray_timeout_s"]
        last = self.journal.state["restarts"][-1:]
        patient = self.heals() and bool(last) and last[0]["reason"] == "ray-nodes-missing"
        problem: str | None = None
        try:
            async with asyncio.timeout(None if patient else timeout_s):
                while problem := self._gate_problem() or await self._deaf_raylets():
                    self._waits_for(problem)
                    # Until the probe sees something else; a raylet that begins to listen shows in no look.
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self.looks.changed(), RAYLET_POLL_S)
                self._waits_for(None)
        except TimeoutError as error:
            missing = self._missing()
            raise GiveUpError("ray-nodes-missing", f"after {timeout_s:g} s {problem}", missing=missing) from error
        try:
            async with asyncio.timeout(ACTORS_GONE_S):
                while workers := self.looks.latest["workers"]:
                    await self.looks.changed()
        except TimeoutError as error:
            left = ", ".join(sorted(workers))
            raise GiveUpError("workers-left", f"workers of the server before are still there: {left}") from error

    async def _deaf_raylets(self) -> str | None:
        """Ray takes ten seconds and more to notice that a raylet has died; its port tells at once."""
        port = self.config["raylet_port"]
        addresses = list(self.config["expected_gpus"])
        answers = await asyncio.gather(*(reach(address, port) for address in addresses))
        deaf = [address for address, answer in zip(addresses, answers, strict=True) if answer != "open"]
        return f"no raylet answers on port {port} of {', '.join(deaf)}" if deaf else None

    def _waits_for(self, problem: str | None) -> None:
        if self.journal.state.get("waiting_for") != problem:
            self.journal.state["waiting_for"] = problem
            self.journal.save()

    def _free_shared_memory(self) -> None:
        """Remove what killed servers left in /dev/shm (vLLM's message queues). Only in a namespace of our own, and only
        here, where no server and no worker runs."""
        for left in Path("/dev/shm").glob("psm_*") if self.config["private_shm"] else ():  # noqa: S108 (POSIX's place)
            left.unlink(missing_ok=True)

    def _missing(self) -> list[str]:
        return sorted(set(self.config["expected_gpus"]) - set(self.looks.latest["nodes"]))

    def _gate_problem(self) -> str | None:
        """Why the server cannot start yet. Raises GiveUpError for what no waiting can mend, while nothing heals."""
        expected: dict[str, int] = self.config["expected_gpus"]
        look = self.looks.latest
        wrong = surely_wrong(expected, look["nodes"])
        if wrong and not self.heals():
            raise GiveUpError("ray-nodes-wrong", wrong, seen=look["nodes"], expected=expected)
        if missing := self._missing():
            found = f"only {len(set(look['nodes']) & set(expected))} of {len(expected)} nodes are in Ray"
            return f"{found}; missing: {', '.join(missing)}"
        if not wrong and look["raylets"] != len(expected):
            return f"Ray holds {look['raylets']} raylets, {len(expected)} nodes are declared"
        return wrong

    async def _nodes_stay(self) -> None:
        """Fail as soon as Ray has lost a node or a worker: the server would find out later, or hang (F60, F61)."""
        while not (lost := self._lost()):
            await self.looks.changed()
        # The server's own death, which takes its workers with it, is the better reason: give it a moment to be seen.
        await asyncio.sleep(1)
        reason, who = lost
        raise GiveUpError(reason, f"Ray has lost {', '.join(who)}", tail=list(self.tail))

    def _lost(self) -> tuple[str, list[str]] | None:
        if missing := self._missing():
            return "node-lost", missing
        workers = sorted(self.serving_with - set(self.looks.latest["workers"]))
        return ("worker-lost", workers) if workers else None

    async def _forward(self, server: Child) -> None:
        """Pass the server's output on and keep its last lines."""
        assert server.process.stdout is not None  # noqa: S101 (captured above)
        keep = re.compile("|".join(self.server_config["keep_lines"]))
        rest = b""
        while chunk := await server.process.stdout.read(65536):
            os.write(1, chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[-65536:]
            for line in lines:
                text = line.decode(errors="replace")
                self.tail.append(text)
                if keep.search(text) and len(self.kept) < KEPT_LINES:
                    self.kept.append(text)

    async def _exited(self, server: Child, forwarding: asyncio.Task[None]) -> None:
        code = await server.wait()
        # What it said last is on its way; descendants that outlive it may hold the pipe open for ever.
        await asyncio.wait({forwarding}, timeout=LAST_WORDS_S)
        # Also exit code 0: vLLM's server ends with 0 after its engine died (vllm-ray-facts, surprise 3).
        raise GiveUpError(
            "server-exited",
            f"`{' '.join(self.server_config['server_argv'][:2])}` ended with exit code {code}",
            exit_code=code,
            tail=list(self.tail),
        )

    async def _answering(self) -> None:
        """Ready means: a completion came back. Then keep asking for one at an interval."""
        load_timeout_s = self.settings()["load_timeout_s"]
        try:
            async with asyncio.timeout(load_timeout_s):
                await self._until_listening()
                await self._first_canary()
        except TimeoutError as error:
            detail = f"no completion within {load_timeout_s:g} s of the server's start"
            raise GiveUpError("load-timeout", detail, tail=list(self.tail)) from error
        self.went_well_since = time.monotonic()
        self.serving_with = frozenset(self.looks.latest["workers"])
        self.journal.phase("serving", ready=True)
        while True:
            await asyncio.sleep(self.settings()["canary_interval_s"])
            await self._canary_or_progress(self.settings()["hang_s"])
            self._going_well()

    async def _first_canary(self) -> None:
        try:
            await self._canary(CANARY_TIMEOUT_S)
        except TimeoutError as error:
            detail = f"the server listens, and gave no token within {CANARY_TIMEOUT_S} s"
            raise GiveUpError("server-hangs", detail, tail=list(self.tail)) from error

    async def _until_listening(self) -> None:
        # The port is bound before the engine starts but listens only afterwards: refused means still loading.
        while await reach(self.server_config["endpoint_host"], self.server_config["endpoint_port"]) != "open":
            await asyncio.sleep(POLL_S)

    async def _canary_or_progress(self, hang_s: float) -> None:
        """A canary that waits behind long work is no failure; no token and no progress of the engine is (F61)."""
        before = await asyncio.to_thread(progress, self.server_config, METRICS_TIMEOUT_S)
        try:
            await self._canary(hang_s)
        except TimeoutError as error:
            if await self._works_since(before):
                self.journal.event("canary-slow", waited_s=hang_s)
                return
            detail = f"no token within {hang_s:g} s, and the engine made no progress"
            raise GiveUpError("server-hangs", detail, tail=list(self.tail)) from error

    async def _works_since(self, before: float | None) -> bool:
        """Whether the engine has come further. A look without an answer tells nothing: then another one is taken."""
        after = await asyncio.to_thread(progress, self.server_config, LAST_LOOK_S)
        if before is None and after is not None:
            await asyncio.sleep(LAST_LOOKS_APART_S)
            before, after = after, await asyncio.to_thread(progress, self.server_config, LAST_LOOK_S)
        return before is not None and after is not None and after > before

    async def _canary(self, timeout_s: float) -> None:
        """One real completion. A server that listens and cannot complete a token is a failure, not a delay.

        Raises TimeoutError when nothing came back in time.
        """
        started = time.monotonic()
        try:
            tokens = await asyncio.to_thread(complete_one_token, self.server_config, timeout_s)
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            # The server's own death is the better reason when both happen: give its exit a moment to be seen.
            await asyncio.sleep(1)
            raise GiveUpError(
                "no-completion",
                f"the server listens, but a one-token completion failed: {error}",
                tail=list(self.tail),
            ) from error
        latency_s = round(time.monotonic() - started, 3)
        self.journal.state["kept"] = self.kept
        self.journal.state["canary"] = {"t": time.time(), "latency_s": latency_s, "tokens": tokens}
        self.journal.event("canary", latency_s=latency_s, tokens=tokens)

    def _reap(self) -> None:
        """As process 1, collect orphans (Ray's and vLLM's grandchildren); own children are asyncio's to collect."""
        while True:
            try:
                peek = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if peek is None:
                return
            if STARTING or peek.si_pid in OWN_CHILDREN:
                # It hides other zombies from this look; they are collected once asyncio has taken it.
                asyncio.get_running_loop().call_later(0.2, self._reap)
                return
            with contextlib.suppress(ChildProcessError):
                os.waitpid(peek.si_pid, os.WNOHANG)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file; empty when the file is not there, or was cut off by a loss of power."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def api_key(server: Mapping[str, Any]) -> str | None:
    """The key that the API asks for; None without one (no file, or an empty one)."""
    path = server.get("api_key_file")
    try:
        return (Path(path).read_text().strip() or None) if path else None
    except OSError:
        return None


def stop_s(settings: Mapping[str, Any], *, served: bool) -> float:
    """Seconds for the server to end by itself after SIGTERM."""
    return float(settings["stop_s"] if served else min(settings["stop_s"], LOADING_STOP_S))


def back_off_s(failures: int) -> float:
    """Seconds to wait before a restart: none for the first two, then 5, 10, 20 … 300."""
    return 0.0 if failures < 3 else min(300.0, 5.0 * 2 ** (failures - 3))


def surely_wrong(expected: Mapping[str, int], seen: Mapping[str, float]) -> str | None:
    """What no waiting can mend: a node that was not declared, or a node with another number of GPUs."""
    for address, gpus in sorted(seen.items()):
        if address not in expected:
            return f"{address} is in Ray but is not a node of this cluster"
        if gpus != expected[address]:
            return f"{address} has {gpus:g} GPUs in Ray, {expected[address]} are declared"
    return None


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    text: str


def ask(server: Mapping[str, Any], method: str, path: str, body: object, timeout_s: float) -> Answer:
    """Ask the server on this node. Raises OSError (TimeoutError at the deadline) or HTTPException."""
    host, port = server["endpoint_host"], server["endpoint_port"]
    if server.get("tls"):
        # The agent's own child, on this node's own address: nothing leaves the machine. The certificate is not looked
        # at, since a file that was renewed, or has expired, is no reason to end a server that works.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=timeout_s, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    headers = {"Content-Type": "application/json"}
    if key := server.get("key"):
        headers["Authorization"] = f"Bearer {key}"
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        return Answer(response.status, response.read().decode(errors="replace"))
    finally:
        connection.close()


def complete_one_token(server: Mapping[str, Any], timeout_s: float) -> int:
    """Ask for one token; return how many came. Raises OSError, HTTPException or ValueError (with the answer)."""
    body = {"model": server["model"], "prompt": "Hello", "max_tokens": 1, "temperature": 0, "ignore_eos": True}
    status, answer = ask(server, "POST", "/v1/completions", body, timeout_s)
    if status != 200:
        raise ValueError(f"HTTP {status}: {answer[:500]}")
    tokens = int((json.loads(answer).get("usage") or {}).get("completion_tokens") or 0)
    if tokens < 1:
        raise ValueError(f"the answer holds no token: {answer[:500]}")
    return tokens


def progress(server: Mapping[str, Any], timeout_s: float) -> float | None:
    """How far the engine has come since its start, in no unit; None when the server does not say."""
    try:
        status, text = ask(server, "GET", "/metrics", None, timeout_s)
        values = PROGRESS.findall(text)
        return sum(float(value) for value in values) if status == 200 and values else None
    except (OSError, http.client.HTTPException, ValueError):
        return None


def requests_running(server: Mapping[str, Any]) -> bool:
    """Whether a request is being answered: the middleware says so, or the engine. Not to know is no «no», as long as
    there is a server: who waits has a deadline."""
    for busy in STATE_DIR.glob(BUSY):
        if Path("/proc", busy.name.rpartition("-")[2]).exists():
            return True
    try:
        status, text = ask(server, "GET", "/metrics", None, METRICS_TIMEOUT_S)
        return status != 200 or any(float(value) for value in REQUESTS.findall(text))
    except ConnectionRefusedError:
        return False
    except (OSError, http.client.HTTPException, ValueError):
        return True


async def reach(host: str, port: int) -> str:
    """What a connection meets: `open`, `refused`, or `silent` (no answer, no route)."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 2)
    except ConnectionRefusedError:
        return "refused"
    except OSError:  # TimeoutError among them
        return "silent"
    writer.close()
    return "open"


async def unless(event: asyncio.Event, job: Coroutine[Any, Any, None]) -> None:
    """Run a job until it raises, or until the event comes: then the job is cancelled."""
    task, waiting = asyncio.create_task(job), asyncio.create_task(event.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        task.cancel()
        waiting.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)


async def first_failure(*jobs: Coroutine[Any, Any, None]) -> None:
    """Run jobs that only end by raising; raise what the first one raises and cancel the others."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()


def main() -> int:
    """Run the agent of this node."""
    return asyncio.run(Agent(json.loads((CONFIG_DIR / "agent.json").read_text())).run())


if __name__ == "__main__":
    sys.exit(main())
