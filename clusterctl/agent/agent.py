"""First process of a clusterctl container. One file, standard library only, run by the image's own python3.

On every node it runs `ray start --block` as its child. On the head it is also the gate: it starts the server only
when exactly the declared nodes with exactly their GPUs are in Ray, watches it, and calls it ready only when a
completion with at least one token came back from the served model (`/health` stays 200 while generation is dead:
lab-facts, `--enforce-eager`).

What it writes:
- events, one JSON object a line, on stderr (`docker logs` keeps the two streams apart, also after the container's
  death): {"event": …, "t": Unix seconds, …}. clusterctl/events.py is the reader;
- the server's and Ray's output, untouched, on stdout;
- /run/clusterctl/state.json, replaced atomically, the answer to «what are you doing» for `status`.

Configuration: /etc/clusterctl/agent.json, rendered by clusterctl (planning/files.py).
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import http.client
import importlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

CONFIG_PATH = "/etc/clusterctl/agent.json"
STATE_PATH = Path("/run/clusterctl/state.json")
TAIL_LINES = 60
"""Last lines of the server's output kept to say why it died."""
KEPT_LINES = 200
"""Lines that match the configuration's `keep_lines` kept in the state (the KV cache's size; a line a rank)."""
WORKER_ACTOR_PREFIX = "vllm_Worker_"
"""vLLM names its Ray actors vllm_Worker_<id>_TP{t}_PP{p} (0.32, v1/executor/ray_utils.py)."""
PROBE_POLL_S = 0.2
"""Seconds between looks at Ray's control store: two small reads on loopback."""
GO = b"go\n"
"""What the server's process waits for on its stdin."""
SERVER_MODULES = ("vllm.entrypoints.cli.serve", "vllm.entrypoints.openai.api_server")
"""What `vllm serve` imports before it does anything (vLLM 0.32, entrypoints/cli/main.py)."""
RAY_STOP_S = 5
"""Seconds for Ray to end by itself. With the server gone it holds nothing that is worth more."""
LAST_WORDS_S = 0.5
"""Seconds for output that is on its way when a process has ended."""
POLL_S = 0.1
"""Seconds between looks at a port that is about to open; a refused connect costs microseconds."""
CANARY_TIMEOUT_S = 300
"""A first completion may compile kernels; vLLM itself gives up on a step after 300 s
(VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS, vLLM 0.32)."""


OWN_CHILDREN: set[int] = set()
"""Process ids of children that asyncio will collect; any other zombie was adopted."""


class GiveUpError(Exception):
    """The node cannot do its job; `reason` is one of the codes that clusterctl/events.py explains."""

    def __init__(self, reason: str, detail: str, **fields: object) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.fields = fields


class Journal:
    """Writes events and the state file."""

    def __init__(self, node: str, role: str) -> None:
        self.state: dict[str, object] = {"node": node, "role": role, "ready": False}

    def phase(self, phase: str, **fields: object) -> None:
        """Enter a phase: an event, and the state file says so from now on."""
        self.state.update(phase=phase, since=time.time(), **fields)
        self.event("phase", phase=phase, **fields)

    def event(self, event: str, **fields: object) -> None:
        """Write one event and the state as it is after it."""
        line = json.dumps({"event": event, "t": round(time.time(), 3), **fields})
        os.write(2, line.encode() + b"\n")
        self.save()

    def save(self) -> None:
        """Replace the state file in one step, so that a reader never sees half of it."""
        STATE_PATH.parent.mkdir(parents=True, exist_ok=True)
        partial = STATE_PATH.with_suffix(".new")
        partial.write_text(json.dumps(self.state))
        partial.replace(STATE_PATH)


class Child:
    """A child process in a process group of its own, so that it can be ended with its descendants."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.process = process

    @classmethod
    async def start(cls, name: str, argv: list[str], *, capture: bool = False) -> Child:
        """Start it; with `capture`, stdout and stderr come back as one stream."""
        pipe = asyncio.subprocess.PIPE if capture else None
        # stderr is the agent's own channel for events, so a child that is not captured writes both to stdout.
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=pipe or asyncio.subprocess.DEVNULL,
            stdout=pipe if capture else 1,
            stderr=asyncio.subprocess.STDOUT if capture else 1,
            start_new_session=True,
        )
        OWN_CHILDREN.add(process.pid)
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
        if self.process.returncode is None:
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


class Agent:
    """The node's tasks, in the order of their names."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.journal = Journal(config["node"], config["role"])
        self.ray: Child | None = None
        self.server: Child | None = None
        self.probe: Child | None = None
        self.forwarding: asyncio.Task[None] | None = None
        self.drain = asyncio.Event()
        self.keep = re.compile("|".join(config["keep_lines"]))
        self.kept: list[str] = []
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)

    async def run(self) -> int:
        """Do the node's job until SIGTERM (exit code 0) or until it cannot be done (1).

        SIGUSR1 ends the server and leaves Ray running: `down` stops the server first, then Ray on the workers while
        the head is still there (a raylet without its head takes 30 s to end: Ray 2.60), then the head.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGUSR1, self.drain.set)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        work = asyncio.create_task(self._work())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        failed = not stop.is_set()
        if failed:
            self._record(work.exception())
        else:
            self.journal.phase("stopping", ready=False)
        # What reads the server's output goes on until the server has ended: a full pipe would keep it from ending.
        await self._end(self.server, self.config["stop_timeout_s"])
        work.cancel()
        await asyncio.wait({work, *([self.forwarding] if self.forwarding else [])}, timeout=LAST_WORDS_S)
        await self._end(self.probe, 0)
        await self._end(self.ray, RAY_STOP_S)
        if not failed:
            self.journal.phase("stopped")
        return 1 if failed else 0

    async def _end(self, child: Child | None, timeout_s: float) -> None:
        if child is not None and not await child.end(timeout_s) and timeout_s:
            self.journal.event("killed", child=child.name, after_s=timeout_s)

    def _record(self, error: BaseException | None) -> None:
        """Say why, before anything is torn down: whoever waits learns it at once."""
        if isinstance(error, GiveUpError):
            reason, detail, fields = error.reason, error.detail, error.fields
        else:
            reason, detail, fields = "agent-bug", f"{type(error).__name__}: {error}", {}
        self.journal.state.update(ready=False, reason=reason, detail=detail)
        self.journal.phase("failed", reason=reason, detail=detail, **fields)

    async def _work(self) -> None:
        self.journal.phase("ray")
        head = self.config["role"] == "head"
        argv = [sys.executable, __file__, "ray", self.config["head_address"], str(self.config["gcs_port"])]
        self.ray = await Child.start("ray", [*argv, "1" if head else "0", *self.config["ray_argv"]])
        await first_failure(self._watch_ray(self.ray), *([self._serve()] if head else []))

    async def _watch_ray(self, ray: Child) -> None:
        code = await ray.wait()
        raise GiveUpError("ray-exited", f"`ray start` ended with exit code {code}", exit_code=code)

    async def _serve(self) -> None:
        probe = await Child.start(
            "probe",
            [sys.executable, __file__, "probe", self.config["head_address"], str(self.config["gcs_port"])],
            capture=True,
        )
        self.probe = probe
        await unless(self.drain, self._gate_and_serve(probe))
        await self._end(self.server, self.config["stop_timeout_s"])
        self.journal.phase("drained", ready=False)
        await self._record_ray(probe)

    async def _gate_and_serve(self, probe: Child) -> None:
        # The server's modules load while Ray forms (10 s on an idle machine with vLLM 0.32); it does nothing with them,
        # and knows nothing of Ray, before it is told to go on.
        argv = [sys.executable, __file__, "server", *self.config["server_argv"]]
        self.server = server = await Child.start("server", argv, capture=True)
        self.forwarding = asyncio.create_task(self._forward(server))

        async def serve() -> None:
            await self._gate(probe)
            self.journal.phase("loading")
            server.say(GO)
            await first_failure(self._answering(), self._record_ray(probe))

        await first_failure(self._exited(server, self.forwarding), serve())

    async def _gate(self, probe: Child) -> None:
        """Wait until exactly the declared nodes, each with exactly its GPUs, are alive in Ray."""
        self.journal.phase("gate")
        expected: dict[str, int] = self.config["expected_gpus"]
        timeout_s = self.config["ray_timeout_s"]
        seen: dict[str, float] = {}
        try:
            async with asyncio.timeout(timeout_s):
                while seen != expected:
                    seen = (await self._next_look(probe))["nodes"]
                    if problem := surely_wrong(expected, seen):
                        raise GiveUpError("ray-nodes-wrong", problem, seen=seen, expected=expected)
        except TimeoutError as error:
            missing = sorted(set(expected) - set(seen))
            raise GiveUpError(
                "ray-nodes-missing",
                f"after {timeout_s:g} s only {len(seen)} of {len(expected)} nodes are in Ray; missing: "
                + ", ".join(missing),
                missing=missing,
            ) from error

    async def _record_ray(self, probe: Child) -> None:
        """While the server runs: who holds which stage, and nodes that Ray has lost."""
        while True:
            await self._next_look(probe)

    async def _next_look(self, probe: Child) -> dict[str, Any]:
        """The next look of the probe; what it prints that is none is Ray's own log and goes to stdout."""
        assert probe.process.stdout is not None  # noqa: S101 (captured above)
        while line := await probe.process.stdout.readline():
            if line.startswith(b'{"nodes":'):
                look: dict[str, Any] = json.loads(line)
                if look["nodes"] != self.journal.state.get("nodes"):
                    expected = self.config["expected_gpus"]
                    joined = sorted(set(look["nodes"]) & set(expected))
                    self.journal.event("nodes", joined=joined, expected=len(expected))
                self.journal.state.update(look)
                self.journal.save()
                return look
            os.write(1, line)
        code = await probe.wait()
        raise GiveUpError("probe-died", f"the probe of Ray's nodes ended with exit code {code}", exit_code=code)

    async def _forward(self, server: Child) -> None:
        """Pass the server's output on and keep its last lines."""
        assert server.process.stdout is not None  # noqa: S101 (captured above)
        rest = b""
        while chunk := await server.process.stdout.read(65536):
            os.write(1, chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[-65536:]
            for line in lines:
                text = line.decode(errors="replace")
                self.tail.append(text)
                if self.keep.search(text) and len(self.kept) < KEPT_LINES:
                    self.kept.append(text)

    async def _exited(self, server: Child, forwarding: asyncio.Task[None]) -> None:
        code = await server.wait()
        # What it said last is on its way; descendants that outlive it may hold the pipe open for ever.
        await asyncio.wait({forwarding}, timeout=LAST_WORDS_S)
        # Also exit code 0: vLLM's server ends with 0 after its engine died (vllm-ray-facts, surprise 3).
        raise GiveUpError(
            "server-exited",
            f"`{' '.join(self.config['server_argv'][:2])}` ended with exit code {code}",
            exit_code=code,
            tail=list(self.tail),
        )

    async def _answering(self) -> None:
        """Ready means: a completion came back. Then keep asking for one at an interval."""
        try:
            async with asyncio.timeout(self.config["load_timeout_s"]):
                await self._until_listening()
                await self._canary()
        except TimeoutError as error:
            raise GiveUpError(
                "load-timeout",
                f"no completion within {self.config['load_timeout_s']:g} s of the server's start",
                tail=list(self.tail),
            ) from error
        self.journal.phase("serving", ready=True)
        while True:
            await asyncio.sleep(self.config["canary_interval_s"])
            await self._canary()

    async def _until_listening(self) -> None:
        # The port is bound before the engine starts but listens only afterwards: refused means still loading.
        while not await _listens(self.config["endpoint_host"], self.config["endpoint_port"]):
            await asyncio.sleep(POLL_S)

    async def _canary(self) -> None:
        """One real completion. A server that listens and cannot complete a token is a failure, not a delay."""
        started = time.monotonic()
        try:
            tokens = await asyncio.to_thread(
                complete_one_token,
                self.config["endpoint_host"],
                self.config["endpoint_port"],
                self.config["model"],
            )
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
            if peek.si_pid in OWN_CHILDREN:
                # It hides other zombies from this look; they are collected once asyncio has taken it.
                asyncio.get_running_loop().call_later(0.2, self._reap)
                return
            with contextlib.suppress(ChildProcessError):
                os.waitpid(peek.si_pid, os.WNOHANG)


def surely_wrong(expected: dict[str, int], seen: dict[str, float]) -> str | None:
    """What no waiting can mend: a node that was not declared, or a node with another number of GPUs."""
    for address, gpus in sorted(seen.items()):
        if address not in expected:
            return f"{address} is in Ray but is not a node of this cluster"
        if gpus != expected[address]:
            return f"{address} has {gpus:g} GPUs in Ray, {expected[address]} are declared"
    return None


def complete_one_token(host: str, port: int, model: str) -> int:
    """Ask for one token; return how many came. Raises OSError, HTTPException or ValueError (with the answer)."""
    connection = http.client.HTTPConnection(host, port, timeout=CANARY_TIMEOUT_S)
    try:
        body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0, "ignore_eos": True})
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("VLLM_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        connection.request("POST", "/v1/completions", body, headers)
        response = connection.getresponse()
        answer = response.read().decode(errors="replace")
    finally:
        connection.close()
    if response.status != 200:
        raise ValueError(f"HTTP {response.status}: {answer[:500]}")
    tokens = int((json.loads(answer).get("usage") or {}).get("completion_tokens") or 0)
    if tokens < 1:
        raise ValueError(f"the answer holds no token: {answer[:500]}")
    return tokens


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
        # Until it is over: what follows reads the same pipe, and two readers of one stream are an error.
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


async def _listens(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 2)
    except OSError:
        return False
    writer.close()
    return True


def wait_for_gcs(address: str, port: int) -> None:
    """Return when Ray's control store accepts connections; who runs this decides how long to wait."""
    while True:
        try:
            socket.create_connection((address, port), timeout=2).close()
        except OSError:
            time.sleep(POLL_S)
        else:
            return


def run_ray(address: str, port: int, is_head: bool, argv: list[str]) -> None:
    """`ray ARGV` in this process, its modules loaded before the head is there: that is half of a join's time."""
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="ray")
    command = entry.load()
    # Ray's client server is one more way to run code on the cluster, is not needed, and has no switch: `ray start
    # --head` opens port 10001 whenever its modules are there (Ray 2.60, scripts.py asks this function).
    sys.modules[entry.module].get_ray_client_dependency_error = lambda: "closed by clusterctl"  # type: ignore[attr-defined]
    if not is_head:
        wait_for_gcs(address, port)
    sys.argv = ["ray", *argv]
    sys.exit(command())


def run_server(argv: list[str]) -> None:
    """The server's command in this process: its modules are loaded at once, it runs when the gate has opened."""
    entries = list(importlib.metadata.entry_points(group="console_scripts", name=argv[0]))
    if not entries and shutil.which(argv[0]) is None:
        sys.exit(f"clusterctl: the image has no `{argv[0]}` (F20)")
    command = entries[0].load() if entries else None
    for module in SERVER_MODULES if command else ():
        with contextlib.suppress(ImportError):  # other versions of vLLM; the command itself will say what it lacks
            importlib.import_module(module)
    if sys.stdin.buffer.readline() != GO:
        sys.exit("clusterctl: the agent is gone")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if command is None:
        os.execvp(argv[0], argv)  # noqa: S606 (no shell: argv as configured)
    sys.argv = argv
    sys.exit(command())


def probe_ray(address: str, port: int) -> None:
    """Print Ray's live nodes with their GPUs, and vLLM's workers with their nodes, whenever they change.

    One process for the container's whole life. It reads the control store as `ray status` does, and is no driver:
    `ray.init` would register a job, for which every node starts idle worker processes (Ray 2.60).
    """
    state_module = importlib.import_module("ray._private.state")
    options = importlib.import_module("ray._raylet").GcsClientOptions
    wait_for_gcs(address, port)
    state = state_module.GlobalState()
    state._initialize_global_state(
        options.create(f"{address}:{port}", None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False)
    )
    last = None
    while True:
        seen = {
            "nodes": {n["NodeManagerAddress"]: n["Resources"].get("GPU", 0) for n in state.node_table() if n["Alive"]},
            "workers": {
                actor["Name"]: actor["Address"]["IPAddress"]
                for actor in state.actor_table(None, actor_state_name="ALIVE").values()
                if actor["Name"].startswith(WORKER_ACTOR_PREFIX)
            },
        }
        if seen != last:
            print(json.dumps(seen), flush=True)
            last = seen
        time.sleep(PROBE_POLL_S)


def main(argv: list[str]) -> int:
    """`agent.py` is the agent; `agent.py ray …`, `agent.py probe …` and `agent.py server …` are its children."""
    if argv[:1] == ["ray"]:
        run_ray(argv[1], int(argv[2]), argv[3] == "1", argv[4:])
    if argv[:1] == ["probe"]:
        probe_ray(argv[1], int(argv[2]))
    if argv[:1] == ["server"]:
        run_server(argv[1:])
    config = json.loads(Path(CONFIG_PATH).read_text())
    return asyncio.run(Agent(config).run())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
