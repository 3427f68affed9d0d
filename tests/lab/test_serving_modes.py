"""The ways to serve without Ray, for real: the same log-probabilities, a rank that is killed under load, nothing left.

Each is one start. The reference is `tensor_parallel: 1` on one node, by hand: vLLM 0.32 (CPU build), the lab's model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.request import Request, urlopen

import pytest

from .conftest import Ran, Rehearsal
from .during_up import left_behind
from .faults import CLIENTS, Load, signal_process

pytestmark = [pytest.mark.lab, pytest.mark.starts]

REFERENCE = (-5.6844, -5.6031, -5.6001, -5.5968, -5.6016, -5.6102, -5.6226, -5.6196)
TOLERANCE = 0.005
"""Sums over ranks are rounded in another order: up to 0.004 apart."""

RECOVERY_DEADLINE_S = 400
QUICK = {"timeouts.canary_interval_s": 2, "timeouts.hang_s": 20, "timeouts.drain_s": 5}

PIPELINE = {"accelerator.per_node": 1, "serve.executor": "mp"}
ENGINES = {"accelerator.per_node": 1, "serve.data_parallel": 2}
ONE_NODE = {"accelerator.per_node": 2, "serve.data_parallel": 2}

CASES = {
    "a pipeline over two nodes": (2, PIPELINE, [["node1", "node2"]], ("node2", "VLLM::Worker_PP1")),
    "an engine on each of two nodes": (2, ENGINES, [["node1"], ["node2"]], ("node2", "VLLM::EngineCore_DP1")),
    "two engines on one node": (1, ONE_NODE, [["node1"], ["node1"]], ("node1", "VLLM::EngineCore_DP1")),
}


@pytest.fixture
def emptied(rehearsal: Rehearsal) -> Iterator[Rehearsal]:
    """The lab, on which nothing is left afterwards, whatever the test did."""
    yield rehearsal
    assert rehearsal.clusterctl("down").code == 0


@pytest.mark.parametrize(("nodes", "changes", "engines", "victim"), CASES.values(), ids=CASES)
def test_it_serves_heals_and_leaves_nothing(
    emptied: Rehearsal, nodes: int, changes: Mapping[str, Any], engines: list[list[str]], victim: tuple[str, str]
) -> None:
    lab = emptied.lab
    members = [{"name": m.name, "host": str(m.address), "address": str(m.address)} for m in lab.spec.members[:nodes]]
    clusterctl = emptied.clusterctl.with_changes("modes", {"nodes": members, **QUICK, **changes})

    up = clusterctl("up", "--json")
    assert up.code == 0
    summary = up.json()
    assert summary["executor"] == "mp"
    assert [engine["nodes"] for engine in summary["engines"]] == engines
    assert clusterctl("plan", "--detailed-exitcode").code == 0

    key = clusterctl("api-key").out.strip()
    found = logprobs(summary["endpoint"], summary["model"], key)
    assert len(found) == len(REFERENCE)
    assert max(abs(one - other) for one, other in zip(found, REFERENCE, strict=True)) <= TOLERANCE

    node, process = victim
    with Load(summary["endpoint"], summary["model"], key) as load:
        load.wait(lambda: len(load.asked) > CLIENTS, 60, "requests before the fault")
        signal_process(lab, node, "KILL", process)
        # With several engines the others may go on for seconds, so requests alone do not tell that it was noticed.
        load.wait(lambda: healed(clusterctl("status", "--json")), RECOVERY_DEADLINE_S, "recovery")
    status = clusterctl("status", "--json")
    assert status.code == 0
    assert all(each["in_ray"] is None for each in status.json()["nodes"])
    assert [engine["nodes"] for engine in status.json()["engines"]] == engines

    assert clusterctl("down").code == 0
    assert left_behind(lab, lab.name) == []


def healed(status: Ran) -> bool:
    """Whether the cluster serves, and has started something anew before."""
    nodes = status.json()["nodes"]
    return status.code == 0 and any(each["restarts_total"] for node in nodes for each in node["containers"])


def logprobs(endpoint: str, model: str, key: str) -> list[float]:
    """Of eight tokens after "hello world", greedy."""
    body = {
        "model": model,
        "prompt": "hello world",
        "max_tokens": 8,
        "temperature": 0,
        "logprobs": 1,
        "ignore_eos": True,
    }
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    with urlopen(Request(f"{endpoint}/v1/completions", json.dumps(body).encode(), headers), timeout=60) as answer:  # noqa: S310
        return list(json.loads(answer.read())["choices"][0]["logprobs"]["token_logprobs"])
