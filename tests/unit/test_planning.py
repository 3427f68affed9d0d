"""What `up` would start: the bodies that the engine gets, the files in the container, and the plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import docker
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterctl.agent import paths
from clusterctl.apply.gone import remains
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.containers import beside, holds_rank
from clusterctl.facts.fact import Unknown
from clusterctl.facts.records import ContainerFacts
from clusterctl.modes.ray import TOKEN_PATH, ray_argv
from clusterctl.planning.container import ContainerSpec
from clusterctl.planning.plan import Plan, make_plan
from tests.unit.support import cluster_facts, container, deployment, inventory, node_facts, specs, with_containers

API: Any = docker.APIClient(base_url="tcp://localhost:1", version="1.41")

CPU = {"accelerator": {"kind": "cpu", "per_node": 1}}


def body(spec: ContainerSpec) -> dict[str, Any]:
    """What is sent to the engine, made by its own SDK, as hosts/engine.py does."""
    host_config = API.create_host_config(**spec.host_config)
    return dict(API.create_container_config(**spec.config, host_config=host_config))


def heads_address(config: Mapping[str, Any]) -> Any:
    (address,) = {each["address"] for each in (config["gate"], *config["watches"]) if "address" in each}
    return address


def agent_config(spec: ContainerSpec) -> dict[str, Any]:
    return dict(json.loads(spec.files[paths.AGENT_CONFIG_PATH]))


def settings_file(spec: ContainerSpec) -> dict[str, Any]:
    return dict(json.loads(spec.files[paths.SETTINGS_PATH]))


def server_file(spec: ContainerSpec) -> dict[str, Any]:
    return dict(json.loads(spec.files[paths.SERVER_PATH]))


def server_config(spec: ContainerSpec) -> dict[str, Any]:
    return dict(yaml.safe_load(spec.files[paths.SERVER_CONFIG_PATH]))


def test_every_container_has_what_nccl_and_rdma_need() -> None:
    for spec in specs().values():
        host = body(spec)["HostConfig"]
        assert host["NetworkMode"] == "host"
        assert host["IpcMode"] == "private"
        assert host["CapAdd"] == ["IPC_LOCK"]
        assert {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in host["Ulimits"]} == {
            "memlock": (-1, -1),
            "stack": (67108864, 67108864),
        }
        assert host["Binds"] == ["/models/llama:/models/llama:ro", "demo-cache:/var/cache/clusterctl"]
        assert not host.get("Privileged")
        assert "no-new-privileges" in host["SecurityOpt"]


def test_the_log_cannot_fill_the_disk() -> None:
    log = body(specs()["gpu1"])["HostConfig"]["LogConfig"]
    assert log["Type"] == "json-file"
    assert set(log["Config"]) == {"max-size", "max-file"}


def test_the_agent_is_the_first_process_and_has_time_to_stop_both_of_its_children() -> None:
    created = body(specs({"timeouts": {"stop_s": 100}})["gpu1"])
    assert created["Entrypoint"] == ["python3", paths.AGENT_PATH]
    assert created["StopTimeout"] > 200


def test_nvidia_gets_exactly_as_many_gpus_as_the_layout_uses() -> None:
    host = body(specs(nodes={"gpu1": {"gpus": 8}, "gpu2": {"gpus": 8}})["gpu2"])["HostConfig"]
    assert [(r["Count"], r["Capabilities"]) for r in host["DeviceRequests"]] == [(2, [["gpu"]])]


def test_amd_gets_its_device_files_and_no_nvidia_runtime() -> None:
    host = body(specs({"accelerator": {"kind": "amd"}})["gpu1"])["HostConfig"]
    assert [device["PathOnHost"] for device in host["Devices"]] == ["/dev/kfd", "/dev/dri"]
    assert host["GroupAdd"] == ["video", "render"]
    assert not host.get("DeviceRequests")


def test_cpu_gets_no_device() -> None:
    host = body(specs(CPU)["gpu1"])["HostConfig"]
    assert not host.get("DeviceRequests")
    assert not host.get("Devices")


@pytest.mark.parametrize(
    ("found", "declared", "passed"),
    [
        (["rdma_cm", "uverbs0"], [], ["/dev/infiniband"]),
        (["uverbs0"], ["/dev/infiniband"], ["/dev/infiniband"]),
        (["uverbs0"], ["/dev/gdrdrv"], ["/dev/gdrdrv", "/dev/infiniband"]),
        (None, [], []),
        ([], [], []),  # the engine refuses to pass a directory without devices
    ],
)
def test_rdma_devices_are_passed_where_the_node_has_them(
    found: list[str] | None, declared: list[str], passed: list[str]
) -> None:
    made = specs({"container": {"devices": declared}}, {"gpu1": {"infiniband": found}})
    assert [device["PathOnHost"] for device in body(made["gpu1"])["HostConfig"].get("Devices") or []] == passed


def test_a_private_ipc_namespace_has_its_own_shm() -> None:
    host = body(specs({"container": {"ipc": "private", "shm_bytes": 1 << 34}})["gpu1"])["HostConfig"]
    assert (host["IpcMode"], host["ShmSize"]) == ("private", 1 << 34)


def test_the_nodes_own_shared_memory_only_when_asked_for() -> None:
    assert body(specs()["gpu1"])["HostConfig"]["IpcMode"] == "private"
    host = body(specs({"container": {"ipc": "host"}})["gpu1"])["HostConfig"]
    assert (host["IpcMode"], host.get("ShmSize")) == ("host", None)


def test_soft_and_hard_limits_and_volumes_are_passed_on() -> None:
    changes = {"container": {"ulimits": {"nofile": {"soft": 10, "hard": 20}}, "volumes": ["/a:/b:ro"]}}
    host = body(specs(changes)["gpu1"])["HostConfig"]
    assert [(u["Name"], u["Soft"], u["Hard"]) for u in host["Ulimits"]] == [("nofile", 10, 20)]
    assert "/a:/b:ro" in host["Binds"]


def environment(spec: ContainerSpec) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in body(spec)["Env"])


def test_each_node_has_its_own_address_and_interface_in_its_environment() -> None:
    made = specs(nodes={"gpu2": {"addresses": {"10.77.0.12": "ens3f1np1", "192.0.2.9": "eth0"}}})
    first, second = environment(made["gpu1"]), environment(made["gpu2"])
    assert (first["VLLM_HOST_IP"], second["VLLM_HOST_IP"]) == ("10.77.0.11", "10.77.0.12")
    assert (first["GLOO_SOCKET_IFNAME"], second["GLOO_SOCKET_IFNAME"]) == ("eth1", "ens3f1np1")
    # `=`: NCCL takes a bare name for a prefix, and eth1 would match eth10.
    assert (first["NCCL_SOCKET_IFNAME"], second["NCCL_SOCKET_IFNAME"]) == ("=eth1", "=ens3f1np1")
    assert first["RAY_ADDRESS"] == second["RAY_ADDRESS"] == "10.77.0.11:6379"
    assert set(first) == set(second), "a value set only on the head becomes the workers' too"


def test_a_nodes_environment_wins_over_the_clusters_and_reaches_no_other_node() -> None:
    made = specs(
        {
            "container": {"env": {"NCCL_DEBUG": "INFO", "RAY_DEDUP_LOGS": "1"}},
            "nodes": [{"name": "gpu1", "host": "a", "env": {"NCCL_DEBUG": "WARN"}}, {"name": "gpu2", "host": "b"}],
        }
    )
    assert [environment(made[name])["NCCL_DEBUG"] for name in made] == ["WARN", "INFO"]
    assert environment(made["gpu2"])["RAY_DEDUP_LOGS"] == "1", "the operator's word wins over our default"


HEAD_ONLY = ("--head", "--port", "--include-dashboard", "--dashboard-host", "--dashboard-port", "--ray-client")


def argv(name: str, changes: Mapping[str, Any] | None = None) -> list[str]:
    made = deployment(changes)
    program, *words = ray_argv(made, made.places[name])
    assert program == "ray"
    return words


def test_head_only_flags_are_never_given_to_a_worker() -> None:
    worker = argv("gpu2")
    assert worker[0] == "start"
    assert "--address=10.77.0.11:6379" in worker
    assert not [flag for flag in worker if flag.startswith(HEAD_ONLY)]


def test_the_head_has_no_dashboard_and_is_told_no_address_of_another() -> None:
    head = argv("gpu1", {"ray": {"ports": {"gcs": 7000}}})
    assert {"start", "--head", "--port=7000", "--include-dashboard=false"} <= set(head)
    assert not [flag for flag in head if flag.startswith("--address")]


def test_every_port_is_pinned_on_every_node() -> None:
    for name in ("gpu1", "gpu2"):
        flags = dict(flag.split("=", 1) for flag in argv(name) if "=" in flag)
        assert flags["--node-manager-port"] == "6380"
        assert flags["--object-manager-port"] == "6381"
        assert flags["--runtime-env-agent-port"] == "6382"
        assert flags["--dashboard-agent-grpc-port"] == "6383"
        assert flags["--metrics-export-port"] == "6384"
        assert flags["--dashboard-agent-listen-port"] == "52365"
        assert (flags["--min-worker-port"], flags["--max-worker-port"]) == ("10002", "10999")


@pytest.mark.parametrize("head", ["gpu1", "gpu2"])
def test_the_declared_head_is_the_head_wherever_it_is_listed(head: str) -> None:
    made = specs({"head": head})
    assert [name for name, spec in made.items() if paths.SERVER_CONFIG_PATH in spec.files] == [head]
    assert [name for name, spec in made.items() if agent_config(spec)["role"] == "head"] == [head]
    # The gate of the head, and what a worker's agent watches, name the head's address.
    assert {heads_address(agent_config(spec)) for spec in made.values()} == {f"10.77.0.1{head[-1]}"}


def test_ray_offers_exactly_the_gpus_that_the_gate_waits_for() -> None:
    changes = {"accelerator": {"per_node": 8}, "serve": {"tensor_parallel": 4}}
    made = specs(changes, {"gpu1": {"gpus": 8}, "gpu2": {"gpus": 8}})
    assert agent_config(made["gpu1"])["gate"]["expected"] == {"10.77.0.11": 8, "10.77.0.12": 8}
    assert (server_config(made["gpu1"])["tensor-parallel-size"], server_config(made["gpu1"])["pipeline-parallel-size"]) == (4, 4)  # fmt: skip # noqa: E501
    for spec in made.values():
        assert "--num-gpus=8" in agent_config(spec)["processes"][0]["argv"]


@pytest.mark.parametrize(
    ("host", "listens", "asked", "endpoint"),
    [
        ("private", "10.77.0.11", "10.77.0.11", "http://10.77.0.11:8000"),
        ("any", "0.0.0.0", "127.0.0.1", "http://10.77.0.11:8000"),
        ("192.0.2.7", "192.0.2.7", "192.0.2.7", "http://192.0.2.7:8000"),
    ],
)
def test_where_the_server_listens_and_where_it_is_asked(host: str, listens: str, asked: str, endpoint: str) -> None:
    spec = specs({"serve": {"host": host}})["gpu1"]
    assert server_config(spec)["host"] == listens
    assert server_file(spec)["endpoint_host"] == asked
    assert deployment({"serve": {"host": host}}).endpoint == endpoint


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NASTY = {
    "chat-template": "{{ 'a' }} {% if x %}<|im_start|>&amp;\"'\\\n\ttab",
    "hf-overrides": {"rope": {"factor": 2.5, "type": "yarn"}, "architectures": ["A", "B"], "x": None},
    "served-note": "ünïcödé 🚀 \u2028 # no comment: here",
    "looks-like": "yes",
    "number-as-text": "0x10",
    "small": {"eps": 1e-06, "text": "1e-06", "large": 1e22},
    "control": "\x7f\x85\ufeff",
    "enable-prefix-caching": True,
}


def test_awkward_option_values_arrive_in_vllms_configuration_as_they_were_given() -> None:
    assert NASTY.items() <= server_config(specs({"serve": {"options": NASTY}})["gpu1"]).items()


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.from_regex(r"opt-[a-z0-9-]{1,8}", fullmatch=True), json_values, max_size=3))
def test_any_json_value_survives_the_rendering(options: dict[str, Any]) -> None:
    assert options.items() <= server_config(specs({"serve": {"options": options}})["gpu1"]).items()


@settings(max_examples=25, deadline=None)
@given(st.from_regex(r"/[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,20}", fullmatch=True), st.from_regex(r"\S{1,10}", fullmatch=True))  # fmt: skip # noqa: E501
def test_any_path_and_model_name_survive_the_rendering(path: str, name: str) -> None:
    spec = specs({"model": {"path": path, "name": name}})["gpu1"]
    assert (server_config(spec)["model"], server_config(spec)["served-model-name"]) == (path, name)
    assert server_file(spec)["model"] == name


# What only a new container can change, what the server reads when it starts, what the agent looks up whenever it needs
# it, and what only the operator's side sees.
TAKES_A_CONTAINER: list[Mapping[str, Any]] = [
    {"container": {"image": "vllm:2"}},
    {"container": {"env": {"A": "1"}}},
    {"container": {"volumes": ["/a:/b"]}},
    {"container": {"ipc": "host"}},
    {"container": {"shm_bytes": 1 << 30}},
    {"container": {"ulimits": {"memlock": 1}}},
    {"container": {"cap_add": []}},
    {"container": {"devices": ["/dev/fuse"]}},
    {"container": {"privileged": True}},
    {"accelerator": {"kind": "cpu"}},
    {"accelerator": {"per_node": 1}},
    {"model": {"path": "/models/other"}},
    {"ray": {"ports": {"gcs": 7000}}},
    {"ray": {"ports": {"workers": {"first": 11000, "last": 11999}}}},
    {"ray": {"object_store_bytes": 1 << 30}},
    {"head": "gpu2"},
]
TAKES_A_SERVER: list[Mapping[str, Any]] = [
    {"model": {"name": "other"}},
    {"serve": {"host": "any"}},
    {"serve": {"port": 9000}},
    {"serve": {"options": {"max-model-len": 1}}},
    {"serve": {"options": {"ssl-certfile": "/tls/cert.pem"}}},
    {"serve": {"tensor_parallel": 1, "pipeline_parallel": 4}},
    {"serve": {"api_key": "off"}},
]
TAKES_EFFECT_BY_ITSELF: list[Mapping[str, Any]] = [
    {"timeouts": {"load_s": 60}},
    {"timeouts": {"ray_s": 60}},
    {"timeouts": {"drain_s": 0}},
    {"timeouts": {"stop_s": 30}},
    {"timeouts": {"canary_interval_s": 5}},
    {"timeouts": {"hang_s": 600}},
]
DOES_NOT_MATTER: list[Mapping[str, Any]] = [
    {"timeouts": {"connect_s": 1}},
    {"timeouts": {"command_s": 1}},
    {"ssh": {"user": "other", "port": 2222}},
    {"network": {"cidr": "10.77.0.0/16"}},
    {"nodes": [{"name": "gpu1", "host": "other"}, {"name": "gpu2", "host": "b", "user": "x"}]},
    {"container": {"sudo": True}},
]


def hashes(change: Mapping[str, Any] | None = None) -> dict[str, str]:
    return {name: spec.hash for name, spec in specs(change).items()}


def actions(plan: Plan) -> dict[str, str]:
    return {node.node: node.action for node in plan.steps}


@pytest.mark.parametrize("change", TAKES_A_CONTAINER, ids=str)
def test_what_only_a_new_container_can_change_replaces_the_gang(change: Mapping[str, Any]) -> None:
    assert specs(change)["gpu1"].hash != specs()["gpu1"].hash
    plan = planned(change, running())
    assert plan.new_gang
    assert actions(plan) == {"gpu1": "replace", "gpu2": "replace"}


@pytest.mark.parametrize("change", TAKES_A_SERVER, ids=str)
def test_what_the_server_reads_takes_a_new_server_and_nothing_else(change: Mapping[str, Any]) -> None:
    assert hashes(change) == hashes()
    plan = planned(change, running())
    assert actions(plan) == {"gpu1": "restart-server", "gpu2": "keep"}
    assert not plan.new_gang
    assert not plan.empty
    head = plan.steps[0]
    assert head.reasons == ("the server was started with other options",)
    assert head.changes, "old and new value are shown"
    assert {change.path.rpartition("/")[2].partition(".")[0] for change in head.changes} <= {"server", "vllm"}


@pytest.mark.parametrize("change", TAKES_EFFECT_BY_ITSELF, ids=str)
def test_a_time_out_is_replaced_on_every_node_while_everything_runs(change: Mapping[str, Any]) -> None:
    assert hashes(change) == hashes()
    plan = planned(change, running())
    assert actions(plan) == {"gpu1": "update", "gpu2": "update"}
    assert [len(node.changes) for node in plan.steps] == [1, 1]
    assert {c.path.rpartition(".")[0] for node in plan.steps for c in node.changes} == {f"files.{paths.SETTINGS_PATH}"}


@pytest.mark.parametrize("change", DOES_NOT_MATTER, ids=str)
def test_a_change_that_only_the_operators_side_sees_restarts_nothing(change: Mapping[str, Any]) -> None:
    assert hashes(change) == hashes()
    assert planned(change, running()).empty


def test_the_agents_settings_are_those_of_the_inventory() -> None:
    limits = {"ray_s": 1, "load_s": 2, "drain_s": 3, "stop_s": 4, "canary_interval_s": 5, "hang_s": 6}
    made = specs({"timeouts": limits, "supervise": "off"})
    for spec in made.values():
        found = settings_file(spec)
        assert found.pop("supervise") is False
        assert found.pop("max_restarts") > 1
        assert found.pop("metrics") is None
        assert found.pop("cache_max_bytes") == 20 * 1024**3
        assert found == {name if name[:4] != "ray_" and name[:5] != "load_" else name.replace("_s", "_timeout_s"): float(s) for name, s in limits.items()}  # fmt: skip # noqa: E501


def test_the_hash_is_the_same_in_every_run_and_after_the_way_through_the_container() -> None:
    one, two = specs()["gpu1"], specs()["gpu1"]
    assert one.hash == two.hash
    assert json.loads(json.dumps(one.values(), sort_keys=True)) == two.values()


def test_another_image_behind_the_same_name_changes_the_hash() -> None:
    nodes = {"gpu1": {"image": "two"}, "gpu2": {"image": "two"}}
    assert specs(nodes=nodes)["gpu1"].hash != specs()["gpu1"].hash


def planned(changes: Mapping[str, Any] | None, containers: Mapping[str, tuple[ContainerFacts, ...] | Unknown]) -> Plan:
    return make_plan(deployment(changes), with_containers(cluster_facts(), containers))


def running(**options: Any) -> dict[str, tuple[ContainerFacts, ...]]:
    return {name: (container(spec, **options),) for name, spec in specs().items()}


def test_nothing_there_is_created_on_every_node() -> None:
    plan = planned(None, {})
    assert [(node.node, node.action, node.existing) for node in plan.steps] == [("gpu1", "create", ()), ("gpu2", "create", ())]  # fmt: skip # noqa: E501
    assert "2 to create, 0 to replace, 0 to keep" in "\n".join(plan.lines())


def test_what_runs_as_declared_is_kept() -> None:
    plan = planned(None, running())
    assert plan.empty
    assert list(plan.lines()) == ["demo: nothing to do"]
    assert plan.to_json()["changes"] is False


@pytest.mark.parametrize(
    ("gpu2", "reason"),
    [
        ((), "no container of this cluster"),
        ((container(specs()["gpu2"], status="exited"),), "not running (exited, exit code 1)"),
        ((container(specs()["gpu2"], state={"phase": "failed", "detail": "Ray ended"}),), "it failed: Ray ended"),
        ((container(specs()["gpu2"]), container(name="x")), "2 containers"),
        ((container(specs({"container": {"ipc": "host"}})["gpu2"]),), "started with other values"),
        ((container(specs()["gpu2"], state={"phase": "drained", "by": "me"}),), "stopped for me"),
        ((container(specs()["gpu2"], state={"phase": "draining", "action": "drain"}),), "stopped for somebody"),
    ],
)
def test_one_node_that_cannot_stay_takes_the_whole_gang_with_it(gpu2: tuple[ContainerFacts, ...], reason: str) -> None:
    plan = planned(None, {**running(), "gpu2": gpu2})
    nodes = {node.node: node for node in plan.steps}
    assert nodes["gpu1"].action == "replace"
    assert nodes["gpu2"].action == ("replace" if gpu2 else "create")
    assert reason in " ".join(nodes["gpu2"].reasons)
    assert "together with gpu2" in " ".join(nodes["gpu1"].reasons)
    assert len(nodes["gpu2"].existing) == len(gpu2)


def test_a_container_that_the_engine_is_about_to_start_again_is_left_alone() -> None:
    assert planned(None, {**running(), "gpu2": (container(specs()["gpu2"], status="restarting"),)}).empty


def differences(changes: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    plan = planned(changes, running())
    return {change.path: (change.old, change.new) for node in plan.steps for change in node.changes}


def test_a_changed_option_is_shown_as_old_and_new() -> None:
    plan = planned({"serve": {"options": {"max-model-len": 512}}}, running())
    text = "\n".join(plan.lines())
    assert "max-model-len: absent -> 512" in text
    assert "~ gpu1: restart only the server in container demo-node" in text
    assert "0 to create, 0 to replace, 1 to restart-server, 1 to keep" in text
    found = [d for node in plan.to_json()["nodes"] for d in node["differences"]]
    assert found == [{"path": f"files.{paths.SERVER_CONFIG_PATH}.max-model-len", "old": None, "new": 512}]


@pytest.mark.parametrize(
    ("changes", "path", "old", "new"),
    [
        ({"container": {"env": {"NCCL_DEBUG": "INFO"}}}, "config.environment.NCCL_DEBUG", None, "INFO"),
        ({"container": {"image": "vllm:2"}}, "config.image", "vllm:1", "vllm:2"),
        ({"container": {"privileged": True}}, "host_config.privileged", False, True),
        ({"timeouts": {"load_s": 60}}, "files./etc/clusterctl/settings.json.load_timeout_s", 3600.0, 60.0),
    ],
)
def test_drift_names_the_value_that_differs(changes: Mapping[str, Any], path: str, old: Any, new: Any) -> None:
    assert differences(changes) == {path: (old, new)}


def test_a_change_of_the_gang_beats_what_could_be_changed_live() -> None:
    changes = {"serve": {"options": {"seed": 1}}, "container": {"ipc": "host"}, "timeouts": {"load_s": 60}}
    plan = planned(changes, running())
    assert actions(plan) == {"gpu1": "replace", "gpu2": "replace"}
    text = "\n".join(plan.lines())
    assert "0 to create, 2 to replace, 0 to keep" in text
    assert all(words in text for words in ("seed: absent -> 1", "ipc_mode: private -> host", "load_timeout_s: 3600.0"))


@pytest.mark.parametrize(
    "others",
    [{"gpu2": ()}, {"gpu2": (container(specs()["gpu2"], status="exited"),)}],
    ids=["a node without a container", "a container that has ended"],
)
def test_a_gang_that_is_replaced_for_another_reason_shows_its_new_options_too(
    others: Mapping[str, tuple[ContainerFacts, ...]],
) -> None:
    plan = planned({"serve": {"options": {"seed": 1}}}, {**running(), **others})
    assert "seed: absent -> 1" in "\n".join(plan.lines())
    assert plan.steps[0].reasons == ("the gang is replaced together with gpu2",)


def test_a_restart_that_is_asked_for_replaces_what_is_as_declared() -> None:
    plan = make_plan(deployment(), with_containers(cluster_facts(), running()), anew=True)
    assert actions(plan) == {"gpu1": "replace", "gpu2": "replace"}
    assert {node.reasons for node in plan.steps} == {("a restart was asked for",)}
    assert not any(node.changes for node in plan.steps)


def test_another_api_key_takes_a_new_server_and_is_not_shown() -> None:
    plan = make_plan(deployment(), with_containers(cluster_facts(), running()), other_key=True)
    assert actions(plan) == {"gpu1": "restart-server", "gpu2": "keep"}
    assert plan.steps[0].reasons == ("the server was started with another API key",)
    assert plan.steps[0].changes == ()


def with_policy(policy: str, phase: str = "serving") -> dict[str, tuple[ContainerFacts, ...]]:
    made = specs()
    return {
        "gpu1": (container(made["gpu1"], policy=policy, state={"phase": phase}),),
        "gpu2": (container(made["gpu2"], policy=policy, state={"phase": "ray"}),),
    }


def test_a_cluster_that_serves_and_was_never_adopted_is_updated_without_a_restart() -> None:
    plan = planned(None, with_policy("no"))
    assert actions(plan) == {"gpu1": "update", "gpu2": "update"}
    assert all("cut off" in " ".join(node.reasons) for node in plan.steps)
    assert {str(change) for node in plan.steps for change in node.changes} == {"restart policy: no -> always"}


@pytest.mark.parametrize("phase", ["ray", "gate", "loading", "restarting", "draining"])
def test_a_start_that_nobody_has_seen_serve_is_left_to_go_on(phase: str) -> None:
    assert planned(None, with_policy("no", phase)).empty


def test_turning_supervision_off_is_an_update_of_a_cluster_that_serves() -> None:
    plan = planned({"supervise": "off"}, with_policy("always"))
    assert actions(plan) == {"gpu1": "update", "gpu2": "update"}
    shown = {str(change) for node in plan.steps for change in node.changes}
    assert shown == {
        f"files.{paths.SETTINGS_PATH}.supervise: True -> False",
        "restart policy: always -> no",
    }


def test_a_plan_as_json_names_every_action() -> None:
    plan = planned({"serve": {"options": {"seed": 1}}}, running())
    said = json.loads(json.dumps(plan.to_json()))
    assert said["changes"] is True
    assert [(node["name"], node["action"], node["reasons"]) for node in said["nodes"]] == [
        ("gpu1", "restart-server", ["the server was started with other options"]),
        ("gpu2", "keep", []),
    ]
    assert said["nodes"][1]["differences"] == []


def test_an_option_that_looks_like_a_secret_is_masked_in_what_is_shown() -> None:
    old = running()
    plan = planned({"serve": {"options": {"hub-token": "hf_s3cr3t"}}}, old)
    assert actions(plan)["gpu1"] == "restart-server"
    shown = "\n".join([*plan.lines(), json.dumps(plan.to_json())])
    assert "hf_s3cr3t" not in shown
    assert "hub-token: absent -> (secret)" in shown


def test_a_container_of_another_version_is_replaced_even_when_its_record_cannot_be_read() -> None:
    for record in (None, Unknown("spec.json: not JSON"), {"files": "?", "file_contents": 1}):
        old = ContainerFacts("c1", "demo-node", {"clusterctl.spec": "0" * 64}, "running", 0, "", "no", 0, record, None)
        plan = planned(None, {**running(), "gpu1": (old,)})
        assert not plan.empty
        assert list(plan.lines())
        json.dumps(plan.to_json())


def test_nothing_secret_is_in_what_is_shown_hashed_or_labelled(tmp_path: Any) -> None:
    token = tmp_path / "token"
    token.write_text("s3cr3t-t0ken", encoding="utf-8")
    made = deployment({"ray": {"token_file": str(token)}})
    plan = make_plan(made, cluster_facts())
    for node in plan.steps:
        shown = [json.dumps(node.spec.values()), json.dumps(node.spec.labels("demo", made.places[node.node]))]
        shown += [*plan.lines(), json.dumps(plan.to_json()), json.dumps(body(node.spec)), repr(node)]
        assert not [text for text in shown if "s3cr3t-t0ken" in text]
        # The token travels as a file of its own; the environment says only where it is.
        assert environment(node.spec)["RAY_AUTH_TOKEN_PATH"] == TOKEN_PATH
        assert "RAY_AUTH_TOKEN" not in environment(node.spec)
        assert TOKEN_PATH not in node.spec.files


def test_labels_find_the_container_again() -> None:
    made = deployment()
    spec = specs()["gpu2"]
    labels = spec.labels("demo", made.places["gpu2"])
    assert labels["clusterctl.cluster"] == "demo"
    assert (labels["clusterctl.role"], labels["clusterctl.node"]) == ("worker", "gpu2")
    assert labels["clusterctl.spec"] == spec.hash


def test_a_resolved_deployment_needs_facts_that_were_checked() -> None:
    with pytest.raises(ValueError, match="gpu1"):
        deployment(nodes={"gpu1": {"image": None}})


def test_facts_of_a_node_that_is_alone() -> None:
    alone = {"nodes": [{"name": "gpu1", "host": "a"}]}
    facts = ClusterFacts({"gpu1": node_facts(1)}, {})
    plan = make_plan(deployment(alone), facts)
    assert [node.node for node in plan.steps] == ["gpu1"]
    assert server_config(plan.steps[0].spec)["pipeline-parallel-size"] == 1
    assert inventory(alone).head_name == "gpu1"


def test_a_container_of_another_role_beside_is_nobodys_business() -> None:
    """Found by its role, not by counting: the plan stays empty, and `down` still sees it."""
    exporter = container(name="demo-exporter", labels={"clusterctl.role": "exporter"})
    made = specs()
    serving = tuple(
        container(spec, state={"phase": "serving"}, labels={"clusterctl.role": "head"}) for spec in [made["gpu1"]]
    )
    assert [holds_rank(each) for each in (*serving, exporter)] == [True, False]
    assert beside((*serving, exporter)) == (exporter,)
    assert beside(Unknown("exit 1")) == ()
    after = replace(node_facts(1), containers=(), beside=(exporter,))
    assert [what for what, _ in remains(None, after, ports=set(), pids=set())] == [
        "container demo-exporter is still there (running)"
    ]
