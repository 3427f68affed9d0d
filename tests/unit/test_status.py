"""What `status` concludes from what was seen, its exit codes, and what a person reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from clusterctl.agent.state import AgentState
from clusterctl.cli.status import _beginning
from clusterctl.errors import ExitCode
from clusterctl.facts.fact import Unknown
from clusterctl.facts.records import ContainerFacts
from clusterctl.modes.mode import Stage
from clusterctl.modes.ray import RAY
from clusterctl.status.server import Completion, Metrics
from clusterctl.status.status import (
    RECOVERING,
    ClusterStatus,
    ServerAnswers,
    cluster_status,
    endpoint_from,
    exit_code_of,
)
from clusterctl.ui import render
from tests.unit.support import cluster_facts, container, inventory, specs, with_containers

KEPT = "INFO [kv_cache_utils.py:2327] GPU KV cache size: 2,097,152 tokens, Maximum concurrency for 512 tokens per request: 4096.00x"  # noqa: E501
HEAD_STATE = {
    "phase": "serving",
    "ready": True,
    "nodes": {"10.77.0.11": 2.0, "10.77.0.12": 2.0},
    "workers": {"vllm_Worker_1_TP0_PP0": "10.77.0.12", "vllm_Worker_1_TP0_PP1": "10.77.0.11"},
    "kept": [KEPT],
}
ANSWERS = ServerAnswers(200, Completion(1, 0.05), Metrics(3, 1, 0.25, 100, 10), 12.5)
SILENT = ServerAnswers(200, Unknown("HTTP 500: EngineDeadError"), Unknown("refused"), None)
"""The case of lab-facts: /health is 200 while generation is dead."""


def running(head: Mapping[str, Any] | Unknown | None = HEAD_STATE, **options: Any) -> dict[str, Any]:
    made = specs()
    return {
        "gpu1": (container(made["gpu1"], state=head, **options),),
        "gpu2": (container(made["gpu2"], state={"phase": "ray"}),),
    }


def seen(
    containers: Mapping[str, tuple[ContainerFacts, ...] | Unknown],
    *,
    server: ServerAnswers | None = ANSWERS,
    changes: Mapping[str, Any] | None = None,
    nodes: Mapping[str, Any] | None = None,
    unreachable: Mapping[str, str] | None = None,
) -> ClusterStatus:
    facts = with_containers(cluster_facts(nodes, unreachable), containers)
    wanted = inventory(changes)
    return cluster_status(wanted, facts, endpoint_from(wanted, facts), server)


def with_head(phase: str, policy: str = "always", **said: Any) -> dict[str, Any]:
    """An agent of the head in that phase; the restart policy is `no` until a start has been seen to serve."""
    made = specs()
    return {
        "gpu1": (container(made["gpu1"], state={"phase": phase, **said}, policy=policy),),
        "gpu2": (container(made["gpu2"], state={"phase": "ray"}, policy=policy),),
    }


def with_worker(head: str, status: str, policy: str = "always") -> dict[str, Any]:
    """The head's agent in a phase, while the worker's container is in a state of Docker's."""
    return {**with_head(head, policy), "gpu2": (container(specs()["gpu2"], status=status, policy=policy),)}


def worker_gave_up() -> dict[str, Any]:
    """Its container goes on, so that the engine does not start it again."""
    return {**with_head("gate"), "gpu2": (container(specs()["gpu2"], state={"phase": "failed"}, policy="always"),)}


HALF = {**running(), "gpu2": ()}
STATES: list[tuple[str, ClusterStatus, str, ExitCode]] = [
    ("as declared and completing", seen(running()), "healthy", ExitCode.OK),
    ("nothing there", seen({}, server=None), "down", ExitCode.DOWN),
    *((f"a start: {p}", seen(with_head(p, "no"), server=SILENT), "starting", ExitCode.DEGRADED) for p in RECOVERING),
    *((f"a recovery: {p}", seen(with_head(p), server=SILENT), "recovering", ExitCode.DEGRADED) for p in RECOVERING),
    ("a recovery: the worker starts again", seen(with_worker("gate", "restarting"), server=None), "recovering", ExitCode.DEGRADED),  # noqa: E501
    ("a start: the worker has ended", seen(with_worker("gate", "exited", "no"), server=None), "degraded", ExitCode.DEGRADED),  # noqa: E501
    ("a worker that nobody starts again", seen(with_worker("gate", "exited"), server=None), "degraded", ExitCode.DEGRADED),  # noqa: E501
    ("drained, and nobody asked for more", seen(with_head("drained"), server=SILENT), "degraded", ExitCode.DEGRADED),
    ("a `down` that was cut off", seen(with_head("draining", action="drain"), server=SILENT), "degraded", ExitCode.DEGRADED),  # noqa: E501
    ("a worker has given up", seen(worker_gave_up(), server=None), "degraded", ExitCode.DEGRADED),
    ("healthy, adopted on one node only", seen({**with_head("serving"), "gpu2": (container(specs()["gpu2"], policy="no"),)}), "healthy", ExitCode.DEGRADED),  # noqa: E501
    ("healthy says HTTP, no token comes", seen(running(), server=SILENT), "degraded", ExitCode.DEGRADED),
    ("the agent gave up", seen(with_head("failed"), server=SILENT), "degraded", ExitCode.DEGRADED),
    ("stopping", seen(with_head("stopping"), server=SILENT), "degraded", ExitCode.DEGRADED),
    ("a worker is gone", seen(HALF), "degraded", ExitCode.DEGRADED),
    ("the head exited", seen(running(status="exited"), server=None), "degraded", ExitCode.DEGRADED),
    ("the head restarts", seen(running(status="restarting"), server=None), "recovering", ExitCode.DEGRADED),
    ("the agent's state cannot be read", seen(running(Unknown("x")), server=None), "degraded", ExitCode.DEGRADED),
    ("a stranger's container with our label", seen({**running(), "gpu2": (container(name="x"),)}), "degraded", ExitCode.DEGRADED),  # noqa: E501
    ("a node is not reached", seen(running(), unreachable={"gpu2": "no answer"}), "unknown", ExitCode.UNKNOWN),
    ("an engine does not answer", seen({**running(), "gpu2": Unknown("hung")}), "unknown", ExitCode.UNKNOWN),
    ("nothing there on the nodes that answer", seen({}, server=None, unreachable={"gpu1": "x"}), "unknown", ExitCode.UNKNOWN),  # noqa: E501
    ("healthy, another option is declared", seen(running(), changes={"serve": {"options": {"seed": 1}}}), "healthy", ExitCode.DEGRADED),  # noqa: E501
    ("healthy, what is declared is impossible", seen(running(), changes={"accelerator": {"per_node": 8}}), "healthy", ExitCode.DEGRADED),  # noqa: E501
]  # fmt: skip


@pytest.mark.parametrize(("name", "found", "state", "code"), STATES, ids=[case[0] for case in STATES])
def test_the_state_and_its_exit_code(name: str, found: ClusterStatus, state: str, code: ExitCode) -> None:
    assert (found.state, exit_code_of(found)) == (state, code)
    assert f"demo: {state}" in render.status(found)
    assert json.loads(json.dumps(found.to_json(), default=str))["state"] == state


def test_ready_only_with_a_completion() -> None:
    assert seen(running()).ready
    assert not seen(running(), server=SILENT).ready
    assert not seen(running(), server=None).ready


def test_a_healthy_cluster_as_text() -> None:
    found = seen(running())
    text = render.status(found)
    assert "http://10.77.0.11:8000/v1" in text
    assert "TP=2 x PP=2" in text
    assert "2,097,152 tokens, 4096.00 requests of 512 tokens at once" in text
    assert "3 running, 1 waiting" in text
    assert "25.0%" in text
    assert "12.5" in text
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("gpu")}
    assert rows["gpu1"].split()[1:6] == ["head", "10.77.0.11", "yes", "running", "serving"]
    assert rows["gpu2"].split()[1:6] == ["worker", "10.77.0.12", "yes", "running", "ray"]
    assert [rows[name].split()[-2] for name in ("gpu1", "gpu2")] == ["1", "0"], "stages by Ray's actors, not by order"
    assert [rows[name].split()[-1] for name in ("gpu1", "gpu2")] == ["0", "0"], "restarts"
    assert "restarts, latest last" not in text


def restarted(count: int, first_s: int = 0) -> dict[str, Any]:
    """What an agent that has started things again so often says, one a minute."""
    records = [
        {"t": first_s + 60 * n, "scope": "server", "reason": "server-exited", "detail": f"death {n}"}
        for n in range(count)
    ]
    return {**HEAD_STATE, "restarts": records, "restarts_total": count}


def test_restarts_are_shown_with_time_and_reason_the_latest_last() -> None:
    made = specs()
    worker = {"t": 90, "scope": "node", "reason": "head-lost", "detail": "refused"}
    found = seen(
        {
            "gpu1": (container(made["gpu1"], state=restarted(2)),),
            "gpu2": (container(made["gpu2"], state={"phase": "ray", "restarts": [worker], "restarts_total": 1}),),
        }
    )
    lines = render.status(found).splitlines()
    shown = [line.strip() for line in lines[lines.index(next(li for li in lines if li.startswith("restarts"))) + 1 :]]
    assert shown[:3] == [
        "1970-01-01 00:00:00Z  gpu1  server: death 0 [server-exited]",
        "1970-01-01 00:01:00Z  gpu1  server: death 1 [server-exited]",
        "1970-01-01 00:01:30Z  gpu2  node: refused [head-lost]",
    ]
    assert [c.restarts_total for node in found.nodes for c in node.containers] == [2, 1]
    said = json.loads(json.dumps(found.to_json(), default=str))
    assert [r["reason"] for r in said["nodes"][0]["containers"][0]["restarts"]] == ["server-exited"] * 2


def test_only_the_latest_restarts_are_shown_and_all_are_counted() -> None:
    text = render.status(seen(running(restarted(50))))
    assert sum("death" in line for line in text.splitlines()) == render.SHOWN_RESTARTS
    assert "death 49" in text
    assert next(line for line in text.splitlines() if line.startswith("gpu1")).split()[-1] == "50"


@pytest.mark.parametrize("restarts", [None, [], ["x"], [{}], [{"t": 1}]], ids=str)
def test_a_record_of_restarts_that_is_no_such_record_hides_nothing_else(restarts: Any) -> None:
    state = {**HEAD_STATE, "restarts": restarts} if restarts is not None else HEAD_STATE
    assert "demo: healthy" in render.status(seen(running(state)))


def test_what_a_recovery_waits_for_is_shown_until_it_is_over() -> None:
    waiting = "only 1 of 2 nodes are in Ray; missing: 10.77.0.12"
    found = seen(running({"phase": "gate", "waiting_for": waiting}), server=None)
    assert found.waiting_for == waiting
    assert f"waiting for  {waiting}" in render.status(found)
    assert "waiting for" not in render.status(seen(running({**HEAD_STATE, "waiting_for": waiting})))


def test_a_dead_generation_as_text_shows_both_answers() -> None:
    text = render.status(seen(running(), server=SILENT))
    assert "HTTP 500: EngineDeadError" in text
    assert "HTTP 200" in text


def test_a_node_that_ray_lost_is_named() -> None:
    head = {**HEAD_STATE, "nodes": {"10.77.0.11": 2.0}}
    found = {node.name: node for node in seen(running(head), server=SILENT).nodes}
    assert (found["gpu1"].in_ray, found["gpu1"].gpus) == (True, 2)
    assert (found["gpu2"].in_ray, found["gpu2"].gpus) == (False, None)
    assert "missing" in render.status(seen(running(head), server=SILENT))


def test_an_unreachable_node_keeps_its_row_with_the_reason() -> None:
    text = render.status(seen(running(), unreachable={"gpu2": "no answer within 10 s"}))
    assert "NO: no answer within 10 s" in text
    assert "node-unreachable" in text


def test_drift_shows_old_and_new() -> None:
    found = seen(running(), changes={"serve": {"options": {"max-model-len": 512}}})
    assert "max-model-len: absent -> 512" in "\n".join(found.drift)
    assert "differs from the inventory" in render.status(found)


def test_unified_memory_is_no_number() -> None:
    text = render.status(seen(running(), nodes={"gpu1": {"gpus": "unified"}}))
    assert "unified" in text
    assert "None" not in text


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        ({}, ()),
        ({"vllm_Worker_7": "10.0.0.1"}, (Stage(0, ("a",)),)),
        ({"vllm_Worker_7_TP0": "10.0.0.1", "vllm_Worker_7_TP1": "10.0.0.1"}, (Stage(0, ("a",)),)),
        (
            {"vllm_Worker_7_TP0_PP1": "10.0.0.1", "vllm_Worker_7_PP0": "10.0.0.2", "vllm_Worker_7_PP10": "10.0.0.2"},
            (Stage(0, ("b",)), Stage(1, ("a",)), Stage(10, ("b",))),
        ),
        ({"vllm_Worker_7_PP0": "10.0.0.1", "vllm_Worker_8_PP0": "10.0.0.2"}, (Stage(0, ("a", "b")),)),
        ({"vllm_Worker_7_PP0": "10.9.9.9"}, (Stage(0, ("10.9.9.9",)),)),
    ],
)  # fmt: skip
def test_stages_come_from_the_names_of_vllms_actors(workers: dict[str, str], expected: tuple[Stage, ...]) -> None:
    assert RAY.stages({"a": AgentState(workers=workers)}, {"10.0.0.1": "a", "10.0.0.2": "b"}) == expected


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
def test_no_word_is_broken_on_a_narrow_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "terminal_columns", lambda: columns)
    text = render.status(seen(running()))
    for word in (*render.NODE_COLUMNS, "10.77.0.11", "10.77.0.12"):
        assert word in text


def test_a_screen_shows_the_beginning() -> None:
    lines = [f"line {number}" for number in range(10)]
    assert _beginning(lines, 80, 20) == lines
    assert _beginning(lines, 80, 6) == [*lines[:4], "… 6 more lines: clusterctl status shows them all"]
    assert _beginning(["x" * 100, "y", "z"], 40, 6) == [
        "x" * 100,
        "y",
        "… 1 more lines: clusterctl status shows them all",
    ]
