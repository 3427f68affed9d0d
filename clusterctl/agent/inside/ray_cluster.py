"""Everything of Ray: its process, the probe of its control store, the gate of its nodes, and what is watched of it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .child import Child, wait_until_open
from .node import Node
from .tasks import GiveUpError, reach

HEAD_POLL_S = 1.0
"""Seconds between a worker's checks of its head. Ray's head needs several to start again, so none is missed."""
RAYLET_POLL_S = 0.5
"""Seconds between checks of the raylets' ports while the gate is closed."""
HEAD_REFUSALS = 2
"""Refusals in a row that count: one may be a full queue of connections."""
ACTORS_GONE_S = 30
"""Seconds for Ray to end the workers of a server that has died (3 s in the lab)."""
PROBE_TRIES = 3
"""Deaths of the probe in a row, without an answer between them, before Ray counts as broken."""
PROBE_POLL_S = 0.2
"""Seconds between the probe's reads of Ray's control store: two small ones on loopback."""
WORKER_ACTOR_PREFIX = "vllm_Worker_"
"""vLLM names its Ray actors vllm_Worker_<id>_TP{t}_PP{p} (0.32, v1/executor/ray_utils.py)."""
SESSIONS = Path("/tmp/ray")  # noqa: S108 (Ray's own place, in the container's own layer)
KEPT_SESSIONS = 2
"""Directories of earlier Ray sessions that stay for a diagnosis; each restart makes one more."""

PROBE = "ray-probe"
"""The probe's name among the programs (children.py)."""


# In the agent's own process.


class Views:
    """What the probe saw last, and a way to wait for the next."""

    def __init__(self) -> None:
        self.latest: dict[str, Any] = {"nodes": {}, "raylets": 0, "workers": {}}
        self._changed = asyncio.Event()

    def take(self, view: dict[str, Any]) -> None:
        """A new view."""
        self.latest = view
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Return when the probe has seen something else."""
        await self._changed.wait()


class RayNodes:
    """The gate `ray-nodes`: exactly the declared nodes, each with exactly its GPUs, are alive in Ray.

    {"address", "port": of Ray's control store, "raylet_port": on every node, "expected": address → GPUs}
    """

    def __init__(self, node: Node, spec: Mapping[str, Any]) -> None:
        self.node = node
        self.where = (str(spec["address"]), int(spec["port"]))
        self.raylet_port: int = spec["raylet_port"]
        self.expected: Mapping[str, int] = spec["expected"]
        self.views = Views()
        self.probe: Child | None = None
        self.serving_with: frozenset[str] = frozenset()

    async def watch(self) -> None:
        """Take the probe's views as they come. It only reads: when it dies it is started again, nothing else is."""
        died = 0
        while died < PROBE_TRIES:
            address, port = self.where
            self.probe = probe = await Child.start("probe", PROBE, address, str(port), capture=True)
            assert probe.process.stdout is not None  # noqa: S101 (captured above)
            while line := await probe.process.stdout.readline():
                if line.startswith(b'{"nodes":'):
                    died = 0
                    self._take(json.loads(line))
                else:
                    os.write(1, line)
            code = await probe.wait()
            died += 1
        raise GiveUpError("probe-died", f"the probe of Ray's nodes ended with exit code {code}", exit_code=code)

    async def end(self) -> None:
        """End the probe."""
        if self.probe is not None:
            await self.probe.end(0)

    def _take(self, view: dict[str, Any]) -> None:
        journal = self.node.journal
        if view["nodes"] != journal.state.get("nodes"):
            joined = sorted(set(view["nodes"]) & set(self.expected))
            journal.event("nodes", joined=joined, expected=len(self.expected))
        journal.state.update(view)
        journal.save()
        self.views.take(view)

    async def opened(self) -> None:
        """Wait until exactly the declared nodes are there, and no worker of an earlier server is.

        How long nodes are waited for: Node.gate_timeout_s; it may be Ray that does not see them.
        """
        node = self.node
        self.serving_with = frozenset()
        node.journal.phase("gate")
        timeout_s = node.gate_timeout_s("ray-nodes-missing")
        problem: str | None = None
        try:
            async with asyncio.timeout(timeout_s):
                while problem := self._problem() or await self._unresponsive_raylets():
                    node.waits_for(problem)
                    # Until the probe sees something else; a raylet that begins to listen shows in no view.
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self.views.changed(), RAYLET_POLL_S)
                node.waits_for(None)
        except TimeoutError as error:
            missing = self._missing()
            raise GiveUpError("ray-nodes-missing", f"after {timeout_s:g} s {problem}", missing=missing) from error
        try:
            async with asyncio.timeout(ACTORS_GONE_S):
                while workers := self.views.latest["workers"]:
                    await self.views.changed()
        except TimeoutError as error:
            left = ", ".join(sorted(workers))
            raise GiveUpError("workers-left", f"workers of the server before are still there: {left}") from error

    def serving(self) -> None:
        """The server serves, with the workers that there are now: from now on none of them may go."""
        self.serving_with = frozenset(self.views.latest["workers"])

    def closed(self, error: GiveUpError | None) -> None:
        """Ray ends the server's workers by itself."""

    async def stays(self) -> None:
        """Fail as soon as Ray has lost a node or a worker: the server would find out later, or hang."""
        while not (lost := self._lost()):
            await self.views.changed()
        # The server's own death, which takes its workers with it, is the better reason: give it a moment to be seen.
        await asyncio.sleep(1)
        reason, who = lost
        raise GiveUpError(reason, f"Ray has lost {', '.join(who)}", tail=list(self.node.tail))

    def _lost(self) -> tuple[str, list[str]] | None:
        if missing := self._missing():
            return "node-lost", missing
        workers = sorted(self.serving_with - set(self.views.latest["workers"]))
        return ("worker-lost", workers) if workers else None

    def _missing(self) -> list[str]:
        return sorted(set(self.expected) - set(self.views.latest["nodes"]))

    async def _unresponsive_raylets(self) -> str | None:
        """Ray takes ten seconds and more to notice that a raylet has died; its port tells at once."""
        port, addresses = self.raylet_port, list(self.expected)
        answers = await asyncio.gather(*(reach(address, port) for address in addresses))
        silent = [address for address, answer in zip(addresses, answers, strict=True) if answer != "open"]
        return f"no raylet answers on port {port} of {', '.join(silent)}" if silent else None

    def _problem(self) -> str | None:
        """Why the server cannot start yet. Raises GiveUpError for what no waiting can repair, while nothing heals."""
        expected, view = self.expected, self.views.latest
        wrong = surely_wrong(expected, view["nodes"])
        if wrong and not self.node.heals():
            raise GiveUpError("ray-nodes-wrong", wrong, seen=view["nodes"], expected=expected)
        if missing := self._missing():
            found = f"only {len(set(view['nodes']) & set(expected))} of {len(expected)} nodes are in Ray"
            return f"{found}; missing: {', '.join(missing)}"
        if not wrong and view["raylets"] != len(expected):
            return f"Ray holds {view['raylets']} raylets, {len(expected)} nodes are declared"
        return wrong


def surely_wrong(expected: Mapping[str, int], seen: Mapping[str, float]) -> str | None:
    """What no waiting can repair: a node that was not declared, or a node with another number of GPUs."""
    for address, gpus in sorted(seen.items()):
        if address not in expected:
            return f"{address} is in Ray but is not a node of this cluster"
        if gpus != expected[address]:
            return f"{address} has {gpus:g} GPUs in Ray, {expected[address]} are declared"
    return None


async def control_store_answers(node: Node, address: str, port: int) -> None:
    """A worker's Ray belongs to one life of its head's: when the control store is gone, so is the cluster.

    Refused means that the head's machine answers and its Ray does not run. Silence is a partition or a machine
    without power: Ray itself decides how long it hopes.
    """
    been_there, refusals = False, 0
    while True:
        answer = await reach(address, port)
        been_there = been_there or answer == "open"
        refusals = refusals + 1 if answer == "refused" else 0
        if been_there and refusals >= HEAD_REFUSALS and node.heals():
            raise GiveUpError("head-lost", f"Ray's control store on {address}:{port} refuses connections")
        node.going_well()
        await asyncio.sleep(HEAD_POLL_S)


# In processes of their own (children.py).


def remove_old_sessions() -> None:
    """Keep what healing leaves in the container's layer from growing without end."""
    sessions = sorted(SESSIONS.glob("session_*_*"), key=lambda path: path.name)
    for session in sessions[:-KEPT_SESSIONS]:
        shutil.rmtree(session, ignore_errors=True)


def run_ray(after: tuple[str, int] | None, argv: Sequence[str]) -> None:
    """`ray start …` in this process, its modules loaded before the head is there: that is half of a join's time."""
    remove_old_sessions()
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="ray")
    command = entry.load()
    # Ray's client server is one more way to run code on the cluster, is not needed, and has no switch: `ray start
    # --head` opens port 10001 whenever its modules are there (Ray 2.60, scripts.py asks this function).
    sys.modules[entry.module].get_ray_client_dependency_error = lambda: "closed by clusterctl"  # type: ignore[attr-defined]
    if after is not None:
        wait_until_open(*after)
    sys.argv = list(argv)
    sys.exit(command())


def probe_ray(address: str, port: int) -> None:
    """Print Ray's live nodes with their GPUs, and vLLM's workers with their nodes, whenever they change.

    One process for the container's whole life. It reads the control store as `ray status` does, and is no driver:
    `ray.init` would register a job, for which every node starts idle worker processes (Ray 2.60).
    """
    state_module = importlib.import_module("ray._private.state")
    options = importlib.import_module("ray._raylet").GcsClientOptions
    wait_until_open(address, port)
    state = state_module.GlobalState()
    state._initialize_global_state(
        options.create(f"{address}:{port}", None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False)
    )
    last = None
    while True:
        alive = [node for node in state.node_table() if node["Alive"]]
        seen = {
            "nodes": {node["NodeManagerAddress"]: node["Resources"].get("GPU", 0) for node in alive},
            # A node that came back counts twice until Ray has noticed that its former self is dead.
            "raylets": len(alive),
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
