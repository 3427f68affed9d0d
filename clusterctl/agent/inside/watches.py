"""What is watched while a process runs: one row for each kind of watch that agent.json can name.

A watch ends only by raising GiveUpError. That of a process itself (`process`) begins with it; the others begin when it
does its work: for one that waits for the gate, when that has opened.
"""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from .api import METRICS_TIMEOUT_S, complete_one_token, progress
from .child import POLL_S, Child
from .gates import Gate
from .hang import blamed, brief, look
from .node import Node
from .ray_cluster import control_store_answers
from .tasks import GiveUpError, reach

SERVER_REASONS = frozenset(
    {
        *("server-exited", "no-completion", "load-timeout", "server-hangs", "node-lost", "worker-lost"),
        *("member-lost", "rank-exited"),
    }
)
"""What a new server may repair, where one can be started alone; anything else takes the whole gang."""
LAST_WORDS_S = 0.5
"""Seconds for output that is on its way when a process has ended."""
CANARY_TIMEOUT_S = 300
"""A first completion may compile kernels; vLLM itself gives up on a step after 300 s
(VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS, vLLM 0.32)."""
LAST_READ_S = 15
"""For /metrics when a canary had no answer: an API process under heavy load is slow, and not dead for it."""
LAST_READS_APART_S = 5
HANG_LOOK_S = 2.0
"""For CPU time and counters, when a server hangs (hang.py)."""


@dataclass(frozen=True)
class Watched:
    """What a watch is given."""

    node: Node
    gate: Gate
    child: Child
    spec: Mapping[str, Any]
    """What agent.json says of it."""


@dataclass(frozen=True)
class Engine:
    """One engine of the server; a server without data parallel has one, which needs no name."""

    number: int
    engines: int

    @property
    def asked(self) -> int | None:
        """The engine that a question is for; None where there is but one."""
        return self.number if self.engines > 1 else None

    @property
    def named(self) -> str:
        """For sentences about a completion."""
        return f" of engine {self.number}" if self.engines > 1 else ""

    @property
    def fields(self) -> Mapping[str, int]:
        """For events."""
        return {"engine": self.number} if self.engines > 1 else {}


async def process_lives(of: Watched) -> None:
    """{"reason": the code to give when it ends}. Every end is a failure, exit code 0 too: vLLM's server ends with 0
    after its engine died (vllm-ray-facts, surprise 3)."""
    code = await of.child.wait()
    fields: dict[str, object] = {"exit_code": code}
    if of.child.forwarding is not None:
        # What it said last is on its way; descendants that outlive it may hold the pipe open for ever.
        await asyncio.wait({of.child.forwarding}, timeout=LAST_WORDS_S)
        fields["tail"] = list(of.node.tail)
    detail = f"`{' '.join(of.child.argv[:2])}` ended with exit code {code}"
    raise GiveUpError(of.spec["reason"], detail, **fields)


async def completes(of: Watched) -> None:
    """{"engine": its number, "engines": how many the server has}. Ready means: a completion came back, from every
    engine. Then keep asking this one for one at an interval."""
    node, engine = of.node, Engine(of.spec["engine"], of.spec.get("engines", 1))
    load_timeout_s = node.settings()["load_timeout_s"]
    try:
        async with asyncio.timeout(load_timeout_s):
            await _until_listening(node)
            await _first_canary(node, engine)
    except TimeoutError as error:
        detail = f"no completion{engine.named} within {load_timeout_s:g} s of the server's start"
        raise GiveUpError("load-timeout", detail, tail=list(node.tail)) from error
    node.answered.add(engine.number)
    if len(node.answered) == engine.engines:
        node.went_well_since = time.monotonic()
        of.gate.serving()
        node.unavailable.serves()
        node.journal.phase("serving", ready=True)
    while True:
        await asyncio.sleep(node.settings()["canary_interval_s"])
        await _canary_or_progress(node, engine, node.settings()["hang_s"])
        node.going_well()


async def _until_listening(node: Node) -> None:
    # The port is bound before the engine starts but listens only afterwards: refused means still loading.
    while not await _listens(node):
        await asyncio.sleep(POLL_S)


async def _listens(node: Node) -> bool:
    """Whether the server does, and not the agent in its place."""
    if node.unavailable.server is not None:
        return node.unavailable.other_listens()
    return await reach(node.server["endpoint_host"], node.server["endpoint_port"]) == "open"


async def _first_canary(node: Node, engine: Engine) -> None:
    try:
        await _canary(node, engine, CANARY_TIMEOUT_S)
    except TimeoutError as error:
        detail = f"the server listens, and gave no token{engine.named} within {CANARY_TIMEOUT_S} s"
        raise await _hangs(node, detail) from error


async def _canary_or_progress(node: Node, engine: Engine, hang_s: float) -> None:
    """A canary that waits behind long work is no failure; no token and no progress of the engine is."""
    before = await asyncio.to_thread(progress, node.server, METRICS_TIMEOUT_S, engine.asked)
    try:
        await _canary(node, engine, hang_s)
    except TimeoutError as error:
        if await _works_since(node, engine, before):
            node.journal.event("canary-slow", waited_s=hang_s, **engine.fields)
            return
        detail = f"no token{engine.named} within {hang_s:g} s, and the engine made no progress"
        raise await _hangs(node, detail) from error


async def _hangs(node: Node, detail: str) -> GiveUpError:
    """The failure, with what everybody waits for: it is seen only as long as the server lives."""
    who = await note_hang(node)
    return GiveUpError("server-hangs", f"{detail}; {who}" if who else detail, tail=list(node.tail))


async def note_hang(node: Node) -> str | None:
    """Write down what can be seen from this node of a server that hangs; returns for whom everybody waits."""
    found = await asyncio.to_thread(look, node.server, HANG_LOOK_S, complete=False)
    who = blamed(found)
    node.journal.event("hang", blamed=who, **brief(found))
    return who


async def _works_since(node: Node, engine: Engine, before: float | None) -> bool:
    """Whether the engine has come further. A read without an answer tells nothing: then another one is made."""
    after = await asyncio.to_thread(progress, node.server, LAST_READ_S, engine.asked)
    if before is None and after is not None:
        await asyncio.sleep(LAST_READS_APART_S)
        before, after = after, await asyncio.to_thread(progress, node.server, LAST_READ_S, engine.asked)
    return before is not None and after is not None and after > before


async def _canary(node: Node, engine: Engine, timeout_s: float) -> None:
    """One real completion. A server that listens and cannot complete a token is a failure, not a delay.

    Raises TimeoutError when nothing came back in time.
    """
    started = time.monotonic()
    try:
        tokens = await asyncio.to_thread(complete_one_token, node.server, timeout_s, engine.asked)
    except TimeoutError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        # The server's own death is the better reason when both happen: give its exit a moment to be seen.
        await asyncio.sleep(1)
        detail = f"the server listens, but a one-token completion{engine.named} failed: {error}"
        raise GiveUpError("no-completion", detail, tail=list(node.tail)) from error
    latency_s = round(time.monotonic() - started, 3)
    node.canaries[engine.number] = (time.time(), latency_s)
    node.journal.state["kept"] = node.kept
    node.journal.state["canary"] = {"t": time.time(), "latency_s": latency_s, "tokens": tokens, **engine.fields}
    node.journal.event("canary", latency_s=latency_s, tokens=tokens, **engine.fields)


async def gate_stays(of: Watched) -> None:
    """What the gate has counted stays, and what the server serves with."""
    await of.gate.stays()


async def ray_answers(of: Watched) -> None:
    """{"address", "port": of Ray's control store on the head}."""
    await control_store_answers(of.node, of.spec["address"], of.spec["port"])


PROCESS = "process"
COMPLETION = "completion"

WATCHES: Mapping[str, Callable[[Watched], Coroutine[Any, Any, None]]] = {
    PROCESS: process_lives,
    COMPLETION: completes,
    "ray-actors": gate_stays,
    "link": gate_stays,
    "ray-control-store": ray_answers,
}
"""Kind → the watch."""
