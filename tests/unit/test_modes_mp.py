"""Serving without Ray: what each node is started with, its gate and watches, and which executor is meant."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any, cast

import pytest
import yaml

from clusterctl.actions.decide import decide
from clusterctl.agent.labels import LABEL_EXECUTOR
from clusterctl.agent.paths import AGENT_CONFIG_PATH, API_KEY_PATH, SERVER_CONFIG_PATH, SERVER_PATH
from clusterctl.agent.state import AgentState
from clusterctl.apply import gang
from clusterctl.apply.gone import modes_seen
from clusterctl.deployment.address import private_address
from clusterctl.deployment.executor import choose
from clusterctl.deployment.firewall import addresses, cluster_rules
from clusterctl.deployment.resolve import resolve
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.records import ContainerFacts
from clusterctl.findings.rules import check
from clusterctl.hosts.engine.engine import FileInContainer, Volume
from clusterctl.hosts.host import Host
from clusterctl.modes.all import MODES, listens_of, mode_of, ports_of, possible_modes, with_executor
from clusterctl.modes.engines import EngineStatus
from clusterctl.modes.mode import EnginePlace, Stage
from clusterctl.modes.mp import MP, TOKEN_PATH
from clusterctl.planning.container import ContainerSpec, container_specs
from clusterctl.planning.plan import Plan, make_plan
from clusterctl.preflight import image as image_preflight
from clusterctl.status.server import EngineLoad, parse_engine_loads, parse_metrics
from clusterctl.status.status import ClusterStatus, ServerAnswers, cluster_status
from clusterctl.ui import render
from tests.unit.reports import deep_facts
from tests.unit.stand_ins import Engine, StandIn, hosts_of
from tests.unit.support import cluster_facts, container, deployment, inventory, merged, specs, with_containers
from tests.unit.test_status import ANSWERS

OVER_NODES: Mapping[str, Any] = {"serve": {"executor": "mp"}}
ENGINES: Mapping[str, Any] = {"serve": {"executor": "mp", "data_parallel": 4}}
ALONE: Mapping[str, Any] = {"nodes": [{"name": "gpu1", "host": "gpu1.example.com"}]}
THREE: Mapping[str, Any] = {
    "head": "gpu2",
    "nodes": [{"name": f"gpu{number}", "host": f"gpu{number}.example.com"} for number in (1, 2, 3)],
    **OVER_NODES,
}


def facts_of(changes: Mapping[str, Any]) -> ClusterFacts:
    wanted = [node.name for node in inventory(changes).nodes]
    found = cluster_facts({"gpu3": None})
    return replace(found, nodes={name: found.nodes[name] for name in wanted})


def specs_of(changes: Mapping[str, Any]) -> Mapping[str, ContainerSpec]:
    return container_specs(resolve(inventory(changes), facts_of(changes)))


def vllm_yaml(spec: ContainerSpec) -> dict[str, Any]:
    """What the mode decides of it."""
    general = {"model", "served-model-name", "host", "port"}
    found = yaml.safe_load(spec.files[SERVER_CONFIG_PATH])
    return {name: value for name, value in found.items() if name not in general}


def agent_json(spec: ContainerSpec) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(spec.files[AGENT_CONFIG_PATH]))


SERVER = {"name": "server", "program": "server", "gated": True, "alone": True, "after": None, "stop_s": None}
WATCHED = {"kind": "completion", "process": "server"}
LINK = {"kind": "link", "process": "server"}


def ended(reason: str) -> dict[str, str]:
    return {"kind": "process", "process": "server", "reason": reason}


# What a node is started with.


def test_one_node_runs_the_server_and_nothing_else() -> None:
    (spec,) = specs_of(ALONE).values()
    assert vllm_yaml(spec) == {
        "tensor-parallel-size": 2,
        "pipeline-parallel-size": 1,
        "distributed-executor-backend": "mp",
    }
    told = agent_json(spec)
    assert told["processes"] == [SERVER]
    assert told["gate"] == {"kind": "none"}
    assert told["watches"] == [ended("server-exited"), {**WATCHED, "engine": 0, "engines": 1}]
    assert told["stop"] == ["server"]
    assert not any("RAY" in name for name in spec.config["environment"])
    assert MP.secrets(inventory(ALONE)) == {}
    assert ports_of(inventory(ALONE), "gpu1") == {8000: "serve.port"}


def test_over_nodes_each_runs_its_rank_of_one_engine() -> None:
    head, follower = specs_of(OVER_NODES).values()
    common = {
        **{"tensor-parallel-size": 2, "pipeline-parallel-size": 2, "distributed-executor-backend": "mp"},
        **{"nnodes": 2, "master-addr": "10.77.0.11", "master-port": 29501},
    }
    assert vllm_yaml(head) == {**common, "node-rank": 0}
    assert vllm_yaml(follower) == {**common, "node-rank": 1, "headless": True}
    argv = ["vllm", "serve", "--config", SERVER_CONFIG_PATH]
    assert [json.loads(spec.files[SERVER_PATH])["server_argv"] for spec in (head, follower)] == [argv, argv]
    link = {"address": "10.77.0.11", "port": 29500, "token_file": TOKEN_PATH}
    assert agent_json(head)["gate"] == {"kind": "members", **link, "expected": {"gpu2": "10.77.0.12"}}
    assert agent_json(follower)["gate"] == {"kind": "member", "name": "gpu2", **link}
    assert agent_json(head)["watches"] == [ended("server-exited"), {**WATCHED, "engine": 0, "engines": 1}, LINK]
    assert agent_json(follower)["watches"] == [ended("rank-exited"), LINK]
    assert set(MP.secrets(inventory(OVER_NODES))) == {TOKEN_PATH}


def test_ranks_are_counted_from_the_head_on() -> None:
    ranks = {name: vllm_yaml(spec)["node-rank"] for name, spec in specs_of(THREE).items()}
    assert ranks == {"gpu1": 1, "gpu2": 0, "gpu3": 2}
    assert set(agent_json(specs_of(THREE)["gpu2"])["gate"]["expected"]) == {"gpu1", "gpu3"}


def test_several_engines_lie_on_whole_nodes_behind_one_endpoint() -> None:
    head, follower = specs_of(ENGINES).values()
    common = {
        **{"tensor-parallel-size": 1, "pipeline-parallel-size": 1, "distributed-executor-backend": "mp"},
        **{"data-parallel-size": 4, "data-parallel-size-local": 2},
        **{"data-parallel-address": "10.77.0.11", "data-parallel-rpc-port": 29550},
    }
    assert vllm_yaml(head) == common
    assert vllm_yaml(follower) == {**common, "data-parallel-start-rank": 2, "headless": True}
    completions = [watch for watch in agent_json(head)["watches"] if watch["kind"] == "completion"]
    assert completions == [{**WATCHED, "engine": rank, "engines": 4} for rank in range(4)]
    assert agent_json(follower)["watches"] == [ended("rank-exited"), LINK]


def test_several_engines_on_one_node_need_no_link() -> None:
    changes = merged(ALONE, {"serve": {"data_parallel": 2}})
    (spec,) = specs_of(changes).values()
    assert vllm_yaml(spec)["data-parallel-size-local"] == 2
    assert agent_json(spec)["gate"] == {"kind": "none"}
    assert ports_of(inventory(changes), "gpu1") == {8000: "serve.port", 29550: "mp.ports.data_parallel"}


@pytest.mark.parametrize("executor", [mode.name for mode in MODES])
def test_experts_and_api_servers_are_asked_for_in_every_mode(executor: str) -> None:
    made = specs({"serve": {"executor": executor, "expert_parallel": True, "api_servers": 3}})
    assert vllm_yaml(made["gpu1"])["enable-expert-parallel"] is True
    assert vllm_yaml(made["gpu1"])["api-server-count"] == 3
    if executor == "mp":
        assert vllm_yaml(made["gpu2"])["enable-expert-parallel"] is True
        assert "api-server-count" not in vllm_yaml(made["gpu2"]), "followers take no requests"


def test_tensor_parallel_spans_nodes_where_it_is_asked_for() -> None:
    for executor in ("ray", "mp"):
        made = deployment({"accelerator": {"per_node": 1}, "serve": {"executor": executor, "tensor_parallel": 2}})
        layout = made.layout
        assert (layout.tensor_parallel, layout.pipeline_parallel, layout.gpus_per_node) == (2, 1, 1)


def test_only_the_head_is_given_the_api_key() -> None:
    head, follower = (json.loads(spec.files[SERVER_PATH]) for spec in specs(OVER_NODES).values())
    assert head["api_key_file"]
    assert follower["api_key_file"] is None


# Ports.


@pytest.mark.parametrize(
    ("changes", "head"),
    [
        (OVER_NODES, {29500: "mp.ports.agent", 29501: "mp.ports.master", 8000: "serve.port"}),
        (ENGINES, {29500: "mp.ports.agent", 29550: "mp.ports.data_parallel", 8000: "serve.port"}),
    ],
)
def test_ports_are_those_that_the_sizes_need(changes: Mapping[str, Any], head: Mapping[int, str]) -> None:
    assert ports_of(inventory(changes), "gpu1") == head
    assert ports_of(inventory(changes), "gpu2") == {}


def test_a_port_of_the_mode_that_is_taken_is_found() -> None:
    facts = cluster_facts({"gpu1": {"listeners": {"29501": "torchrun (pid 9)", "6379": "redis (pid 8)"}}})
    (finding,) = check(inventory(OVER_NODES), facts)
    assert (finding.code, "mp.ports.master" in finding.seen) == ("port-taken", True)


def test_the_firewall_says_what_listens_on_all_addresses() -> None:
    asked = inventory(OVER_NODES)
    rules = cluster_rules(asked, addresses(asked, cluster_facts()), [IPv4Network("192.0.2.0/24")])[0].rules
    (closed,) = [rule for rule in rules if rule.action == "drop" and rule.protocol == "tcp"]
    assert (29500, 29501) in closed.ports
    assert "mp.ports.master 29501 listens on ALL addresses" in closed.why


def test_where_it_is_not_decided_the_ports_of_all_modes_are_minded() -> None:
    fields = {field.path for field in listens_of(inventory())}
    assert {("ray", "ports", "gcs"), ("mp", "ports", "agent"), ("mp", "ports", "master")} <= fields


# Which executor is meant.


def containers(executor: str | None) -> Mapping[str, tuple[ContainerFacts, ...]]:
    labels = {LABEL_EXECUTOR: executor} if executor else {}
    return {name: (container(spec, labels=labels),) for name, spec in specs().items()}


@pytest.mark.parametrize(
    ("changes", "runs", "ray", "executor", "why"),
    [
        ({"serve": {"executor": "ray"}}, "mp", None, "ray", "serve.executor says so"),
        ({"serve": {"executor": "mp"}}, "ray", "2.60.0", "mp", "serve.executor says so"),
        ({}, "mp", "2.60.0", "mp", "it is what runs"),
        ({}, "ray", None, "ray", "it is what runs"),
        ({}, None, "2.60.0", "ray", "the image has Ray"),
        ({}, None, None, "mp", "the image has no Ray"),
        ({"serve": {"data_parallel": 2}}, None, "2.60.0", "ray", "the image has Ray"),
        ({"serve": {"data_parallel": 2}}, None, None, "mp", "the image has no Ray"),
    ],
)
def test_which_executor_auto_is(
    changes: Mapping[str, Any], runs: str | None, ray: str | None, executor: str, why: str
) -> None:
    facts = with_containers(cluster_facts(), containers(runs) if runs else {})
    choice = choose(inventory(changes), replace(facts, deep=deep_facts({"gpu1": {"ray": ray}})))
    assert (choice.executor, choice.why) == (executor, why)
    assert mode_of(choice.inventory).name == executor


def test_one_node_needs_no_ray_and_older_containers_run_it() -> None:
    assert choose(inventory(ALONE), facts_of(ALONE)).executor == "mp"
    assert choose(inventory(), with_containers(cluster_facts(), containers(None))).executor == "ray"
    nothing = choose(inventory(), cluster_facts())
    assert nothing.executor is None
    assert nothing.inventory == inventory()
    assert [mode.name for mode in possible_modes(nothing.inventory)] == ["ray", "mp"]


@pytest.mark.parametrize(
    ("answer", "executor", "why"),
    [
        ({"ray": None}, "mp", "the image has no Ray"),
        ({}, "ray", "the image has Ray"),
        ({"failed": "no python3"}, None, "the image could not be asked whether it has Ray: no python3"),
    ],
)
def test_where_nothing_runs_the_image_is_asked_on_one_node(
    monkeypatch: pytest.MonkeyPatch, answer: Mapping[str, Any], executor: str | None, why: str
) -> None:
    asked: list[str] = []

    def report(host: Any, *_: Any, **__: Any) -> Any:
        asked.append(host.name)
        return deep_facts({host.name: answer}).images[host.name]

    monkeypatch.setattr(image_preflight, "_report_of", report)
    hosts = hosts_of([Engine("gpu1", []), Engine("gpu2", [])])
    choice = decide(hosts, inventory(), cluster_facts())
    assert (asked, choice.executor, choice.why) == (["gpu1"], executor, why)
    assert choice.inventory.serve.executor == (executor or "auto"), "whatever follows goes by it"


def test_down_looks_for_the_ports_of_what_ran() -> None:
    seen = with_containers(cluster_facts(), containers("mp"))
    assert [mode.name for mode in modes_seen(inventory({"serve": {"executor": "ray"}}), seen)] == ["mp"]
    assert [mode.name for mode in modes_seen(inventory(), cluster_facts())] == ["ray", "mp"]


def test_containers_are_labelled_and_ray_s_hash_is_what_it_was_without_a_choice() -> None:
    place = deployment().places["gpu1"]
    assert specs(OVER_NODES)["gpu1"].labels("demo", place)[LABEL_EXECUTOR] == "mp"
    undecided, ray = specs()["gpu1"], specs({"serve": {"executor": "ray"}})["gpu1"]
    assert ray.labels("demo", place)[LABEL_EXECUTOR] == "ray"
    assert undecided.hash == ray.hash


# What `plan` does about it.


def plan_of(old: Mapping[str, Any], new: Mapping[str, Any]) -> Plan:
    running = {name: (container(spec, state={"phase": "serving"}),) for name, spec in specs(old).items()}
    facts = with_containers(cluster_facts(), running)
    return make_plan(resolve(inventory(new), facts), facts)


def test_other_options_restart_the_server_from_the_head_alone() -> None:
    plan = plan_of(OVER_NODES, merged(OVER_NODES, {"serve": {"options": {"seed": 1}}}))
    assert [step.action for step in plan.steps] == ["restart-server", "update"]
    assert "the head has it start its part" in " ".join(plan.steps[1].reasons)
    assert plan_of(OVER_NODES, OVER_NODES).empty


def test_another_mode_replaces_the_containers() -> None:
    plan = plan_of({}, OVER_NODES)
    assert [step.action for step in plan.steps] == ["replace", "replace"]


def test_plan_says_the_executor_why_and_where_the_engines_are() -> None:
    plan = replace(plan_of({}, ENGINES), why="the image has no Ray")
    assert next(plan.lines()) == "executor mp: the image has no Ray"
    assert not any("executor mp" in line for line in plan.step_lines())
    assert list(replace(plan_of(ENGINES, ENGINES), why="x").lines()) == ["demo: nothing to do"]
    told = plan.to_json()
    assert (told["executor"], told["data_parallel"], told["expert_parallel"]) == ("mp", 4, False)
    unknown = {"running": None, "waiting": None, "kv_use": None}
    assert told["engines"][2:] == [{"rank": rank, "nodes": ("gpu2",), **unknown} for rank in (2, 3)]


# Engines and stages.


@pytest.mark.parametrize(
    ("changes", "engines", "stages"),
    [
        (OVER_NODES, [("gpu1", "gpu2")], [("gpu1",), ("gpu2",)]),
        (
            {"serve": {"executor": "mp", "tensor_parallel": 4}},
            [("gpu1", "gpu2")],
            [("gpu1", "gpu2")],
        ),
        (
            {"serve": {"executor": "mp", "tensor_parallel": 1}},
            [("gpu1", "gpu2")],
            [("gpu1",), ("gpu1",), ("gpu2",), ("gpu2",)],
        ),
        (ENGINES, [("gpu1",), ("gpu1",), ("gpu2",), ("gpu2",)], [("gpu1", "gpu2")]),
    ],
)
def test_where_engines_and_stages_lie(
    changes: Mapping[str, Any], engines: list[tuple[str, ...]], stages: list[tuple[str, ...]]
) -> None:
    made = deployment(changes)
    assert MP.engines(made) == tuple(EnginePlace(rank, nodes) for rank, nodes in enumerate(engines))
    serving = {"gpu1": AgentState(phase="serving")}
    assert MP.stages(serving, {}, made) == tuple(Stage(rank, nodes) for rank, nodes in enumerate(stages))
    assert MP.stages({"gpu1": AgentState(phase="gate")}, {}, made) == ()


METRICS = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 3.0
vllm:num_requests_running{engine="1",model_name="tiny"} 1.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 2.0
vllm:num_requests_waiting{engine="1",model_name="tiny"} 0.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="tiny"} 0.25
vllm:generation_tokens_total{engine="0",model_name="tiny"} 10.0
vllm:generation_tokens_total{engine="1",model_name="tiny"} 10.0
vllm:prompt_tokens_total{engine="0",model_name="tiny"} 4.0
vllm:num_requests_running{engine="2",model_name="tiny"} 1.0
"""


def test_each_engine_s_load_is_read() -> None:
    assert parse_engine_loads(METRICS) == {0: EngineLoad(3, 2, 0.5), 1: EngineLoad(1, 0, 0.25)}
    assert parse_engine_loads('vllm:num_requests_running{engine="0"} many') == {}
    assert not hasattr(parse_metrics(METRICS), "reason")


# What `status` shows.


def status_of(
    changes: Mapping[str, Any], phase: str, server: ServerAnswers | None, loads: Mapping[int, EngineLoad]
) -> ClusterStatus:
    made = specs(changes)
    labels = {LABEL_EXECUTOR: "mp"}
    running = {name: (container(spec, state={"phase": phase}, labels=labels),) for name, spec in made.items()}
    return cluster_status(inventory(changes), with_containers(cluster_facts(), running), "http://x", server, loads)


def test_status_of_a_server_without_ray() -> None:
    loads = {0: EngineLoad(3, 2, 0.5), 3: EngineLoad(0, 0, 0.0)}
    found = status_of(ENGINES, "serving", ANSWERS, loads)
    assert (found.state, found.executor, found.data_parallel, found.expert_parallel) == ("healthy", "mp", 4, False)
    assert found.engines[0] == EngineStatus(0, ("gpu1",), 3, 2, 0.5)
    assert found.engines[2] == EngineStatus(2, ("gpu2",))
    assert [(node.in_ray, node.gpus, node.stages) for node in found.nodes] == [(None, 2, (0,)), (None, 2, (0,))]
    assert found.drift == ()
    shown = render.status(found)
    assert "DP=4 x TP=1 x PP=1" in shown
    assert "gpu1: 3 running, 2 waiting, KV use 50.0%" in shown
    assert (found.api_servers, found.coordinator) == (None, "gpu1")
    assert "gpu1: as many API servers as engines, and the coordinator" in shown
    given = status_of({"serve": {**ENGINES["serve"], "api_servers": 3}}, "serving", ANSWERS, loads)
    assert given.api_servers == 3
    assert "gpu1: API servers: 3, and the coordinator" in render.status(given)


def test_one_engine_needs_nobody_who_balances() -> None:
    found = status_of(OVER_NODES, "serving", ANSWERS, {})
    assert found.coordinator is None
    assert "balancing" not in render.status(found)


def test_status_starts_nothing_to_find_out_the_executor() -> None:
    found = cluster_status(inventory(), cluster_facts(), None, None)
    assert (found.executor, found.state) == (None, "down")
    assert found.engines == (EngineStatus(0, ("gpu1", "gpu2")),)
    assert "executor" in found.to_json()
    assert "not decided" in render.status(found)


# One node without a network.


def test_a_single_node_needs_no_network() -> None:
    changes = {**ALONE, "network": None}
    facts = facts_of(changes)
    assert check(inventory(changes), facts) == ()
    made = resolve(inventory(changes), facts)
    assert made.endpoint == "http://127.0.0.1:8000"
    environment = container_specs(made)["gpu1"].config["environment"]
    assert environment["VLLM_HOST_IP"] == "127.0.0.1"
    assert environment["GLOO_SOCKET_IFNAME"] == "lo"


def test_a_single_node_may_declare_its_address() -> None:
    changes = {"nodes": [{**ALONE["nodes"][0], "address": "10.77.0.11"}], "network": None}
    found = private_address(inventory(changes), "gpu1", facts_of(changes).nodes["gpu1"])
    assert found is not None
    assert (str(found.address), found.interface) == ("10.77.0.11", "eth1")


def test_an_executor_is_decided_once() -> None:
    assert with_executor(inventory(), "mp").serve.executor == "mp"
    assert inventory().serve.executor == "auto", "what was asked for stays as it was"


class Writes:
    """An engine that remembers which files a new container was given."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.labels: dict[str, str] = {}
        self.volumes = self

    def make(self, name: str, labels: Mapping[str, str]) -> Volume:
        return Volume(name, f"/{name}", labels)

    def create(self, _: str, config: Mapping[str, Any], __: Mapping[str, Any]) -> str:
        self.labels = config["labels"]
        return "c0ffee"

    def put_files(self, _: str, files: list[FileInContainer]) -> None:
        self.files = {file.path: file.content for file in files}


def test_every_node_is_given_the_link_s_token_and_only_the_head_the_api_key() -> None:
    made = deployment(OVER_NODES)
    plan = make_plan(made, cluster_facts())
    secret = [FileInContainer(TOKEN_PATH, b"token", 0o600), FileInContainer(API_KEY_PATH, b"key", 0o600)]
    for step in plan.steps:
        engine = Writes()
        gang._create(cast(Host, StandIn(step.node, cast(Engine, engine))), made, step, secret)
        assert engine.files[TOKEN_PATH] == b"token"
        assert (API_KEY_PATH in engine.files) == (step.node == "gpu1")
        assert engine.labels[LABEL_EXECUTOR] == "mp"


def test_the_head_restarts_the_server_also_for_a_change_on_another_node() -> None:
    made = specs(OVER_NODES)
    old = replace(made["gpu2"], files={**made["gpu2"].files, SERVER_CONFIG_PATH: "model: other"})
    running = {
        "gpu1": (container(made["gpu1"], state={"phase": "serving"}),),
        "gpu2": (container(old, state={"phase": "running"}),),
    }
    facts = with_containers(cluster_facts(), running)
    plan = make_plan(resolve(inventory(OVER_NODES), facts), facts)
    assert [step.action for step in plan.steps] == ["restart-server", "update"]
    assert plan.restarts_server
