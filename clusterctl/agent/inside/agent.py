"""First process of a clusterctl container. Standard library only, run by the image's own python3 (3.11 or newer).

It does what agent.json says, and knows no way of serving by its name: it starts the node's processes; one of them, the
server, waits for the gate (gates.py); each is watched (watches.py). It calls the server ready only when a completion
with at least one token came back from the served model (`/health` stays 200 while generation is dead: lab-facts,
`--enforce-eager`).

Healing: until `up` has seen a completion and adopted the cluster (the file `adopted`), every failure is final, reported
and ends the container, so that `up` fails at once. From then on, with supervision on, a failure is recorded and
repaired: the server is started again, and when that does not help the agent ends, the engine's restart policy starts
the container anew, and the other nodes, which notice that, do the same. There is a back-off and a limit; a node that is
missing is waited for as long as it takes.

What it writes:
- events, one JSON object a line, on stderr (`docker logs` keeps the two streams apart, also after the container's
  death): {"event": …, "t": Unix seconds, …}. clusterctl/agent/events.py is the reader;
- its children's output, untouched, on stdout;
- state.json, replaced atomically, the answer to "what are you doing" for `status`; it outlives the container's
  restarts, and with it the record of them.

What it reads (written by clusterctl, planning/files.py): agent.json once; server.json at each start of the server;
settings.json whenever a value is needed, so that these can be changed while it runs; request.json on SIGUSR1.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

from .api import BUSY, api_key, requests_running
from .cache import Cache
from .child import BESIDE, GO, GO_BESIDE, Child, reap
from .gates import GATES, WAITED_FOR
from .journal import CONFIG_DIR, STATE_DIR, read_json
from .metrics import Exporter
from .node import KEPT_LINES, Node
from .tasks import GiveUpError, StoodDownError, first_failure, unless
from .watches import COMPLETION, LAST_WORDS_S, PROCESS, SERVER_REASONS, WATCHES, Watched, note_hang

LOADING_STOP_S = 10
"""Seconds for a server that does not serve yet: it has nothing to lose, and while it waits for a peer that is gone it
does not hear SIGTERM (vLLM 0.32: `down` took all of stop_s, 60 s, in the lab)."""
DRAIN_POLL_S = 0.2


class Agent:
    """Starts, watches, heals and stops what agent.json names.

    {"processes": [{"name", "program": of children.py, "argv": without it in server.json, "after": [host, port] that
    must answer first, "gated", "alone": whether it can be started again by itself, "stop_s"}], "gate": {"kind", …},
    "watches": [{"kind", "process", …}], "stop": names in order, "node", "role", "private_shm", "cache": see cache.py}
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.node = Node(config)
        self.journal = self.node.journal
        self.gate = GATES[config["gate"]["kind"]](self.node, config["gate"])
        self.cache = Cache(self.journal, config.get("cache"))
        self.measuring: asyncio.Task[None] | None = None
        """Knows how much compiled code is kept."""
        self.children: dict[str, Child] = {}
        self.stop = asyncio.Event()
        self.request = asyncio.Event()
        self.answering: asyncio.Task[None] | None = None
        """Keeps the API's port open, for as long as the agent lives."""
        self.exporting: asyncio.Task[None] | None = None
        """Answers Prometheus, where that is asked for."""

    async def run(self) -> int:
        """Do the node's job until SIGTERM (exit code 0), or until it cannot be done or has to be begun anew (1).

        SIGUSR1 is a request (request.json; without one: drain). `down` drains the server first, then stops the other
        nodes while the head is still there, then the head.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        loop.add_signal_handler(signal.SIGUSR1, self.request.set)
        loop.add_signal_handler(signal.SIGCHLD, reap)
        self._note_return()
        self.cache.prepare(os.environ, self.node.settings()["cache_max_bytes"])
        self.measuring = asyncio.create_task(self.cache.keep())
        await self.node.unavailable.open(read_json(CONFIG_DIR / "server.json").get("listen"))
        self.answering = asyncio.create_task(self.node.unavailable.keep())
        self.exporting = asyncio.create_task(Exporter(self.node).keep())
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
            detail = f"it had ended without notice ({phase}): killed, out of memory, or the node lost its power"
            self.journal.restart("container", "container-ended", detail)

    # The end.

    async def _stopped(self, work: asyncio.Task[None]) -> int:
        served = self.journal.state["ready"]
        self.journal.phase("stopping", ready=False)
        settings = self.node.settings()
        if served:
            await self._let_requests_end(settings["drain_s"])
        await self._end_all(work, server_s=stop_s(settings, served=served))
        if work.done() and not work.cancelled():
            work.exception()  # taken note of: what fails while everything is being stopped is no failure
        self.journal.phase("stopped")
        return 0

    async def _failed(self, work: asyncio.Task[None], error: GiveUpError) -> int:
        """Say why, before anything is torn down: whoever waits learns it at once."""
        self.journal.state.update(ready=False, reason=error.reason, detail=error.detail)
        if not self.node.heals():
            self.journal.phase("failed", reason=error.reason, detail=error.detail, **error.fields)
            await self._end_all(work, server_s=self.node.settings()["stop_s"])
            return 1
        failures = self._count(error)
        limit = self.node.settings()["max_restarts"]
        if failures > limit:
            detail = f"gave up after {limit} restarts in a row; the last time: {error.detail}"
            self.journal.phase("failed", **{**error.fields, "reason": error.reason, "detail": detail})
            await self._end_all(work, server_s=0, others_at_once=True)
            # The container goes on, so that the engine does not start it again; `up` replaces it.
            await self.stop.wait()
            self.journal.phase("stopped")
            return 0
        scope = "gang" if self.config["role"] == "head" else "node"
        self.journal.restart(scope, error.reason, error.detail)
        delay_s = back_off_s(failures)
        self.journal.phase("restarting", reason=error.reason, detail=error.detail, after_s=delay_s)
        await self._end_all(work, server_s=0, others_at_once=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), delay_s)
            self.journal.phase("stopped")
        return 1

    async def _end_all(self, work: asyncio.Task[None], *, server_s: float, others_at_once: bool = False) -> None:
        # What reads the server's output goes on until the server has ended: a full pipe would keep it from ending.
        for process in self._in_order_of_stop(gated=True):
            await self._end(process["name"], server_s)
        self.gate.closed(None)
        work.cancel()
        forwarding = [child.forwarding for child in self.children.values() if child.forwarding is not None]
        await asyncio.wait({work, *forwarding}, timeout=LAST_WORDS_S)
        await self.gate.end()
        for process in self._in_order_of_stop(gated=False):
            await self._end(process["name"], 0 if others_at_once else process["stop_s"])

    def _in_order_of_stop(self, *, gated: bool) -> Iterator[Mapping[str, Any]]:
        processes = {process["name"]: process for process in self.config["processes"]}
        return (processes[name] for name in self.config["stop"] if processes[name]["gated"] is gated)

    async def _end(self, name: str, timeout_s: float) -> None:
        child = self.children.get(name)
        if child is not None and not await child.end(timeout_s) and timeout_s:
            self.journal.event("killed", child=child.name, after_s=timeout_s)
        if any(process["name"] == name for process in self._processes(gated=True)):
            await self.node.unavailable.open(self.node.server.get("listen"))

    def _has_ended(self, name: str) -> bool:
        child = self.children.get(name)
        return child is None or child.process.returncode is not None

    def _count(self, error: GiveUpError) -> int:
        return self.node.count_failure(counts=error.reason not in WAITED_FOR)

    # The work.

    async def _work(self) -> None:
        """Start what waits for no gate, each in a phase of its name; then serve, where there is a server."""
        started: list[Child] = []
        for process in self._processes(gated=False):
            self.journal.phase(process["name"])
            child = await Child.start(process["name"], process["program"], *process["argv"], after=after(process))
            self.children[process["name"]] = child
            started.append(child)
            self._begins_well()
        jobs = [job for child in started for of_process in (True, False)
                for job in self._watches(child, of_process=of_process)]  # fmt: skip
        jobs += [self._serve(process) for process in self._processes(gated=True)]
        await first_failure(self.gate.watch(), *jobs)

    def _processes(self, *, gated: bool) -> Iterator[Mapping[str, Any]]:
        return (process for process in self.config["processes"] if process["gated"] is gated)

    def _begins_well(self) -> None:
        """Where there is no completion to wait for, it goes well from the start."""
        if not any(watch["kind"] == COMPLETION for watch in self.config["watches"]):
            self.node.went_well_since = time.monotonic()

    def _watches(self, child: Child, *, of_process: bool) -> Iterator[Coroutine[Any, Any, None]]:
        """The watch of the process itself, or those of its work."""
        for spec in self.config["watches"]:
            if spec["process"] == child.name and (spec["kind"] == PROCESS) is of_process:
                yield WATCHES[spec["kind"]](Watched(self.node, self.gate, child, spec))

    async def _serve(self, process: Mapping[str, Any]) -> None:
        """Start the server, again and again, for as long as that is asked for or repairs what was wrong."""
        while True:
            self.journal.state["server"] += 1
            self.node.server = read_json(CONFIG_DIR / "server.json") or self.node.server
            await self.node.unavailable.open(self.node.server.get("listen"))
            self.node.unavailable.down_since = time.monotonic()
            try:
                await unless(self.request, self._gate_and_serve(process))
            except StoodDownError as error:
                # The head's server hangs, perhaps for this rank: what that does is seen only as long as it lives.
                who = await note_hang(self.node) if error.fields.get("why") == "server-hangs" else None
                self.gate.closed(error)
                await self._end(process["name"], 0)  # a rank without its gang has nothing to lose
                self.journal.restart("server", error.reason, f"{error.detail}; {who}" if who else error.detail)
            except GiveUpError as error:
                # While it is being stopped, a server that lives answers its last requests, and needs the other nodes.
                if not self.stop.is_set() or self._has_ended(process["name"]):
                    self.gate.closed(error)
                alone = process["alone"] and error.reason in SERVER_REASONS
                # While it is being stopped, what fails is the stopping: refused canaries, the server's own end.
                repairable = alone and not self.node.failed_before() and not self.stop.is_set()
                if not repairable or not self.node.heals():
                    raise
                self._count(error)
                self.journal.state.update(ready=False)
                self.journal.restart("server", error.reason, error.detail)
                await self._end(process["name"], 0)
            else:
                await self._carry_out(process, self._take_request())

    async def _gate_and_serve(self, process: Mapping[str, Any]) -> None:
        for left in (STATE_DIR / "draining", *STATE_DIR.glob(BUSY)):
            left.unlink(missing_ok=True)
        node = self.node
        node.tail.clear()
        node.kept = []
        node.answered.clear()
        # The server's modules load while the gate is closed (10 s on an idle machine with vLLM 0.32); it does nothing
        # with them, and knows nothing of the other nodes, before it is told to go on.
        node.server["key"] = key = api_key(node.server)  # the file may be replaced while it runs
        secret = {"VLLM_API_KEY": key} if key else {}
        words = [*after(process), node.unavailable.named]
        argv = (process["program"], *node.server["server_argv"])
        server = await Child.start(process["name"], *argv, after=words, capture=True, env=secret)
        self.children[process["name"]] = server
        server.forwarding = asyncio.create_task(forward(server, node))

        async def serve() -> None:
            await self.gate.opened()
            self._free_shared_memory()
            self.journal.phase("loading")
            node.unavailable.hold()
            self._begins_well()
            await first_failure(self._let_go(server), *self._watches(server, of_process=False))

        await first_failure(*self._watches(server, of_process=True), serve())

    async def _let_go(self, server: Child) -> None:
        """Tell the server that it is its turn, once it has said whether it can share the API's port."""
        beside = await server.heard() == BESIDE and self.node.unavailable.stays()
        if not beside:
            self.node.unavailable.close()
        server.say(GO_BESIDE if beside else GO)

    def _free_shared_memory(self) -> None:
        """Remove what killed servers left in /dev/shm (vLLM's message queues). Only in a namespace of our own, and only
        here, where no server and no worker runs."""
        for left in Path("/dev/shm").glob("psm_*") if self.config["private_shm"] else ():  # noqa: S108 (POSIX's place)
            left.unlink(missing_ok=True)

    # Requests.

    def _take_request(self) -> dict[str, Any]:
        self.request.clear()
        path = STATE_DIR / "request.json"
        request = read_json(path)
        path.unlink(missing_ok=True)
        return {"action": "drain", "by": "a signal", **request}

    async def _carry_out(self, process: Mapping[str, Any], request: dict[str, Any]) -> None:
        settings = self.node.settings()
        served, drain_s = self.journal.state["ready"], request.get("drain_s", settings["drain_s"])
        # With `action`, so that who reads it can tell a server that ends from one that comes back.
        self.journal.phase("draining", ready=False, by=request["by"], action=request["action"])
        if served:
            await self._let_requests_end(drain_s)
        # Zero is a person's word for "at once": then there is no time to tidy up either, what is below it does that.
        await self._end(process["name"], stop_s(settings, served=served) if drain_s else 0)
        self.gate.closed(None)
        while request["action"] == "drain":
            self.journal.phase("drained", ready=False, by=request["by"])
            await self.request.wait()
            request = self._take_request()
        self.journal.restart("server", "requested", f"by {request['by']}")

    async def _let_requests_end(self, drain_s: float) -> None:
        """Have new requests refused (clusterctl_middleware.py) and wait until none is running, or the time is over."""
        with contextlib.suppress(OSError):  # a full disk: they come in then, and are waited for
            (STATE_DIR / "draining").write_text(str(self.node.unavailable.retry_after_s()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                while await asyncio.to_thread(requests_running, self.node.server):
                    await asyncio.sleep(DRAIN_POLL_S)
                await asyncio.sleep(LAST_WORDS_S)  # the last bytes of the last answer


async def forward(server: Child, node: Node) -> None:
    """Pass the server's output on and keep its last lines."""
    assert server.process.stdout is not None  # noqa: S101 (captured)
    keep = re.compile("|".join(node.server["keep_lines"]))
    rest = b""
    while chunk := await server.process.stdout.read(65536):
        os.write(1, chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[-65536:]
        for line in lines:
            text = line.decode(errors="replace")
            node.tail.append(text)
            if keep.search(text) and len(node.kept) < KEPT_LINES:
                node.kept.append(text)


def after(process: Mapping[str, Any]) -> list[str]:
    """The argument that makes a child wait for a port (children.py)."""
    return [f"--after={':'.join(map(str, process['after']))}"] if process["after"] else []


def stop_s(settings: Mapping[str, Any], *, served: bool) -> float:
    """Seconds for the server to end by itself after SIGTERM."""
    return float(settings["stop_s"] if served else min(settings["stop_s"], LOADING_STOP_S))


def back_off_s(failures: int) -> float:
    """Seconds to wait before a restart: none for the first two, then 5, 10, 20 … 300."""
    return 0.0 if failures < 3 else min(300.0, 5.0 * 2 ** (failures - 3))


def main() -> int:
    """Run the agent of this node."""
    return asyncio.run(Agent(json.loads((CONFIG_DIR / "agent.json").read_text())).run())
