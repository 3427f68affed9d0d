"""Serving over Ray: several engines behind one endpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from clusterctl.agent.labels import LABEL_EXECUTOR
from clusterctl.agent.paths import AGENT_CONFIG_PATH, SERVER_CONFIG_PATH
from clusterctl.agent.state import AgentState
from clusterctl.deployment.environment import network_environment
from clusterctl.inventory.owned import DERIVED_ENV
from clusterctl.modes.mode import EnginePlace, Stage
from clusterctl.modes.ray import NOT_CARRIED_PATH, PER_NODE, RAY
from clusterctl.status.status import cluster_status
from tests.unit.support import cluster_facts, container, deployment, inventory, specs, with_containers

ENGINES: Mapping[str, Any] = {"serve": {"executor": "ray", "data_parallel": 4}}
ADDRESSES = {"10.77.0.11": "gpu1", "10.77.0.12": "gpu2"}

SWAPPED = {
    "vllm_Worker_3ac1f_dp0": "10.77.0.11",
    "vllm_Worker_3ac1f_dp1": "10.77.0.12",
    "vllm_Worker_3ac1f_dp2": "10.77.0.12",
    "vllm_Worker_3ac1f_dp3": "10.77.0.11",
}
"""As vLLM 0.32 names its workers, with engines on other nodes than planned."""


def test_the_head_asks_for_every_engine_and_no_port_is_needed_for_that() -> None:
    head, worker = specs(ENGINES).values()
    served = yaml.safe_load(head.files[SERVER_CONFIG_PATH])
    assert {name: value for name, value in served.items() if "parallel" in name or "executor" in name} == {
        "tensor-parallel-size": 1,
        "pipeline-parallel-size": 1,
        "distributed-executor-backend": "ray",
        "data-parallel-size": 4,
        "data-parallel-size-local": 2,
        "data-parallel-address": "10.77.0.11",
        "data-parallel-backend": "ray",
    }
    assert SERVER_CONFIG_PATH not in worker.files
    watches = json.loads(head.files[AGENT_CONFIG_PATH])["watches"]
    completions = [(each["engine"], each["engines"]) for each in watches if each["kind"] == "completion"]
    assert completions == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert watches[-1]["kind"] == "ray-actors"


def test_one_engine_is_asked_for_nothing_of_that() -> None:
    served = yaml.safe_load(specs()["gpu1"].files[SERVER_CONFIG_PATH])
    assert not [name for name in served if name.startswith("data-parallel")]


def test_engines_lie_as_planned_until_the_workers_say_otherwise() -> None:
    made = deployment(ENGINES)
    planned = [("gpu1",), ("gpu1",), ("gpu2",), ("gpu2",)]
    assert RAY.engines(made) == tuple(EnginePlace(rank, nodes) for rank, nodes in enumerate(planned))
    states = {"gpu1": AgentState(workers=SWAPPED)}
    assert RAY.held(states, ADDRESSES) == {0: ("gpu1",), 1: ("gpu2",), 2: ("gpu2",), 3: ("gpu1",)}
    assert RAY.stages(states, ADDRESSES, made) == (Stage(0, ("gpu1", "gpu2")),)
    assert RAY.held({"gpu1": AgentState()}, ADDRESSES) == {}


@pytest.mark.parametrize(
    ("actor", "engine"),
    [
        ("vllm_Worker_a1b2_dp12_TP0_PP1", 12),
        ("vllm_Worker_a1b2_dp0_TP1", 0),
        ("vllm_Worker_a1b2_dp3", 3),
        ("vllm_Worker_dp77_TP0", 77),
        ("vllm_Worker_x_dp1y", None),
        ("vllm_Worker_a1b2_TP0_PP1", None),
    ],
)
def test_the_engine_of_a_worker(actor: str, engine: int | None) -> None:
    found = RAY.held({"gpu1": AgentState(workers={actor: "10.77.0.11"})}, ADDRESSES)
    assert found == ({} if engine is None else {engine: ("gpu1",)})


def test_status_shows_where_the_engines_are() -> None:
    labels = {LABEL_EXECUTOR: "ray"}
    states: Mapping[str, Any] = {"gpu1": {"phase": "serving", "workers": SWAPPED}, "gpu2": {"phase": "ray"}}
    running = {name: (container(spec, state=states[name], labels=labels),) for name, spec in specs(ENGINES).items()}
    found = cluster_status(inventory(ENGINES), with_containers(cluster_facts(), running), None, None)
    assert [engine.nodes for engine in found.engines] == [("gpu1",), ("gpu2",), ("gpu2",), ("gpu1",)]


def test_what_each_node_has_its_own_value_of_is_not_carried_over() -> None:
    changes = {
        **ENGINES,
        "nodes": [
            {"name": "gpu1", "host": "gpu1.example.com", "env": {"NCCL_IB_TC": "106"}},
            {"name": "gpu2", "host": "gpu2.example.com"},
        ],
        "container": {"env": {"NCCL_DEBUG": "INFO"}},
    }
    names = set(json.loads(specs(changes)["gpu1"].files[NOT_CARRIED_PATH]))
    assert {"NCCL_SOCKET_IFNAME", "NCCL_IB_HCA", "NCCL_IB_TC"} <= names
    assert "NCCL_DEBUG" not in names


@pytest.mark.parametrize("rdma", ["off", "auto", "required"])
def test_all_variables_that_differ_by_node_are_known(rdma: str) -> None:
    made = inventory({"rdma": rdma})
    address = deployment().head.address
    derived = set(network_environment(made, "gpu1", address, "eth0", ["mlx5_0:1"]))
    assert derived - PER_NODE <= DERIVED_ENV, "VLLM_HOST_IP: vLLM itself keeps it (WORKER_SPECIFIC_ENV_VARS)"
