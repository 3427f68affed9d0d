"""How containers ask for GPUs: what the engine says decides, the probe asks as the serving container does, and a
cluster that runs is not replaced because something else has become possible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest

from clusterctl.agent.labels import LABEL_GPUS
from clusterctl.deployment.resolve import resolve
from clusterctl.facts import amd, cdi, parse
from clusterctl.facts.cdi import CdiSpec
from clusterctl.facts.fact import Unknown
from clusterctl.findings.rules import check
from clusterctl.hosts.engine.answers import info_of
from clusterctl.planning.container import container_specs
from clusterctl.planning.plan import Plan, make_plan
from clusterctl.preflight.image import image_probe
from tests.unit.support import cluster_facts, container, inventory, with_containers
from tests.unit.test_facts_parse import probe

DIRECTORIES = ["/etc/cdi", "/var/run/cdi"]
CDI: Mapping[str, Any] = {
    "nvidia": {"hook": False},
    "cdi": {"/etc/cdi/nvidia.yaml": {"devices": ["0", "1", "all"]}},
    "engine": {"version": "26.1.5", "cdi_directories": DIRECTORIES},
}
TOOLKIT: Mapping[str, Any] = {"engine": {"version": "26.1.5", "runtimes": ["nvidia", "runc"]}}
TOOLKIT_REQUEST = [{"Driver": "", "Count": 2, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}]


def cdi_request(*names: str) -> list[dict[str, Any]]:
    ids = [f"nvidia.com/gpu={name}" for name in names]
    return [dict(docker.types.DeviceRequest(driver="cdi", device_ids=ids))]


def requests(
    node: Mapping[str, Any], changes: Mapping[str, Any] | None = None, gpus: int = 2
) -> list[Mapping[str, Any]]:
    """What the container of gpu1 asks for; the probe must ask for the same."""
    asked = inventory({"accelerator": {"per_node": gpus, **(changes or {})}})
    facts = cluster_facts({"gpu1": node, "gpu2": node})
    serving = container_specs(resolve(asked, facts))["gpu1"].host_config["device_requests"]
    assert image_probe(asked, facts, "gpu1").host_config["device_requests"] == serving
    return list(serving)


@pytest.mark.parametrize(
    ("node", "asked", "expected"),
    [
        ({}, "auto", TOOLKIT_REQUEST),
        (TOOLKIT, "auto", TOOLKIT_REQUEST),
        (CDI, "auto", cdi_request("all")),
        ({**CDI, **TOOLKIT}, "auto", TOOLKIT_REQUEST),
        (CDI, "toolkit", TOOLKIT_REQUEST),
        (TOOLKIT, "cdi", cdi_request("all")),
        ({**CDI, "nvidia": {}}, "auto", TOOLKIT_REQUEST),  # the toolkit's hook is there, too
        ({**CDI, "engine": {"version": "24.0.7"}}, "auto", TOOLKIT_REQUEST),
    ],
    ids=["nothing", "toolkit", "cdi", "both", "told toolkit", "told cdi", "hook", "older than CDI"],
)
def test_what_the_engine_has_decides_how_gpus_are_asked_for(node: Any, asked: str, expected: Any) -> None:
    assert requests(node, {"request": asked}) == expected


@pytest.mark.parametrize(
    ("devices", "gpus", "expected"),
    [
        (["0", "1", "2", "3", "all"], 4, ["all"]),
        (["0", "1", "2", "3", "all"], 2, ["0", "1"]),
        (["0", "1", "2", "3"], 4, ["0", "1", "2", "3"]),
        # A specification of some of the machine's GPUs: `all` is all of those.
        (["2", "3", "all"], 2, ["all"]),
        (["2", "3", "all"], 1, ["2"]),
        (["GPU-2", "GPU-3"], 2, ["GPU-2", "GPU-3"]),
        (["gpu0", "gpu1", "gpu2", "gpu3"], 1, ["gpu0"]),
        (["all"], 4, ["all"]),
    ],
)
def test_cdi_names_the_gpus_that_the_specification_has(devices: Any, gpus: int, expected: Any) -> None:
    node = {**CDI, "gpus": 4, "cdi": {"/etc/cdi/nvidia.yaml": {"devices": devices}}}
    assert requests(node, gpus=gpus) == cdi_request(*expected)


def test_the_engines_own_list_counts_where_it_gives_one() -> None:
    engine = {**CDI["engine"], "version": "28.3.0", "cdi_devices": ["nvidia.com/gpu=GPU-0", "amd.com/gpu=all"]}
    assert requests({**CDI, "engine": engine}, gpus=1) == cdi_request("GPU-0")


UUID = "GPU-8836a272-ca08-9629-24b6-54ca9b98cd30"


def toolkit_request(*names: str) -> list[dict[str, Any]]:
    return [dict(docker.types.DeviceRequest(device_ids=list(names), capabilities=[["gpu"]]))]


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (TOOLKIT, toolkit_request("2", UUID)),
        ({**CDI, "cdi": {"/etc/cdi/nvidia.yaml": {"devices": ["0", "1", "2", "3", "all"]}}}, cdi_request("2", "3")),
        ({**CDI, "cdi": {"/etc/cdi/nvidia.yaml": {"devices": ["GPU-2", UUID]}}}, cdi_request("GPU-2", UUID)),
    ],
    ids=["toolkit", "cdi by index", "cdi by UUID"],
)
def test_chosen_gpus_are_asked_for_and_recorded(node: Mapping[str, Any], expected: Any) -> None:
    there = {**node, "gpus": [{}, {}, {}, {"uuid": UUID}]}
    assert requests(there, {"devices": [2, UUID]}) == expected
    decided = resolve(inventory({"accelerator": {"devices": [2, UUID]}}), cluster_facts({"gpu1": there, "gpu2": there}))
    labels = container_specs(decided)["gpu1"].labels("demo", decided.places["gpu1"])
    assert labels[LABEL_GPUS] == f"GPU-2,{UUID}"


RENDER = {"amd_render_nodes": ["/dev/dri/renderD128", "/dev/dri/renderD136", "/dev/dri/renderD144"]}


@pytest.mark.parametrize(
    ("changes", "devices", "expected"),
    [
        ({}, ["/dev/kfd", "/dev/dri/renderD128", "/dev/dri/renderD136"], None),
        ({"per_node": 3}, ["/dev/kfd", "/dev/dri"], None),
        ({"devices": [0, 2]}, ["/dev/kfd", "/dev/dri/renderD128", "/dev/dri/renderD144"], None),
        ({"request": "cdi"}, [], ["amd.com/gpu=0", "amd.com/gpu=1"]),
        ({"request": "cdi", "per_node": 3}, [], ["amd.com/gpu=all"]),
        ({"request": "cdi", "devices": [0, 2]}, [], ["amd.com/gpu=0", "amd.com/gpu=2"]),
    ],
)
def test_amd_gets_its_device_files_those_of_chosen_gpus_only_or_cdi(
    changes: dict[str, Any], devices: list[str], expected: list[str] | None
) -> None:
    asked = inventory({"accelerator": {"kind": "amd", "per_node": 2, **changes}})
    facts = cluster_facts({"gpu1": RENDER, "gpu2": RENDER})
    serving = container_specs(resolve(asked, facts))["gpu1"].host_config
    assert [each.split(":")[0] for each in serving["devices"]] == devices
    assert [each["DeviceIDs"] for each in serving.get("device_requests", [])] == ([expected] if expected else [])
    asking = image_probe(asked, facts, "gpu1").host_config
    assert (asking["devices"], asking.get("device_requests")) == (serving["devices"], serving.get("device_requests"))


def test_render_devices_come_in_the_order_of_the_drivers_topology(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, minor in enumerate((0, 0, 128, 136)):  # two CPUs, two GPUs
        path = tmp_path / f"sys/class/kfd/kfd/topology/nodes/{number}/properties"
        path.parent.mkdir(parents=True)
        path.write_text(f"cpu_cores_count 64\nsimd_count 0\ndrm_render_minor {minor}\nhive_id 0\n", encoding="utf-8")
    monkeypatch.setenv("CLUSTERCTL_ROOT", str(tmp_path))
    assert amd.render_nodes(probe(tmp_path)) == ("/dev/dri/renderD128", "/dev/dri/renderD136")
    assert amd.render_nodes({"amd_render": parse.Section("", 44)}) is None


def test_indices_that_mean_other_gpus_after_a_reboot_are_noticed_and_replace_nothing() -> None:
    asked = inventory({"accelerator": {"devices": [0, 1]}})
    before = resolve(asked, cluster_facts())
    started = container_specs(before)
    running = {
        name: (replace(container(spec), labels=spec.labels("demo", before.places[name])),)
        for name, spec in started.items()
    }
    swapped = {"gpus": [{"uuid": "GPU-7"}, {"uuid": "GPU-0"}]}
    facts = with_containers(cluster_facts({"gpu1": swapped}), running)
    (found,) = [finding for finding in check(asked, facts) if finding.code == "gpu-moved"]
    assert (found.nodes, found.seen) == (
        ("gpu1",),
        "the container was started with GPU-0, GPU-1; what it asks for is GPU-7, GPU-0 by now",
    )
    assert make_plan(resolve(asked, facts), facts).empty


def plan_of(node: Mapping[str, Any], running: Mapping[str, Any]) -> Plan:
    """The plan for nodes of one kind on which a cluster runs that was started on nodes of another."""
    asked = inventory()
    started = container_specs(resolve(asked, cluster_facts({"gpu1": running, "gpu2": running})))
    facts = with_containers(
        cluster_facts({"gpu1": node, "gpu2": node}), {name: (container(spec),) for name, spec in started.items()}
    )
    return make_plan(resolve(asked, facts), facts)


def test_a_cluster_that_runs_is_not_replaced_because_another_way_has_become_possible() -> None:
    both = {**CDI, "nvidia": {}}
    assert plan_of(both, CDI).empty
    assert plan_of(both, TOOLKIT).empty


def test_a_cluster_whose_way_is_gone_is_replaced() -> None:
    plan = plan_of(CDI, TOOLKIT)
    assert not plan.empty
    (line,) = [line for line in plan.lines() if line.startswith("GPUs")]
    assert line == "GPUs by CDI: the engine has no NVIDIA runtime, and /etc/cdi/nvidia.yaml has nvidia.com/gpu"
    assert plan.to_json()["accelerator_requests"]["gpu2"]["devices"] == ["all"]


def test_nodes_may_differ() -> None:
    facts = cluster_facts({"gpu1": CDI, "gpu2": TOOLKIT})
    plan = make_plan(resolve(inventory(), facts), facts)
    assert [line for line in plan.lines() if line.startswith("GPUs")] == [
        "GPUs of gpu1 by CDI: the engine has no NVIDIA runtime, and /etc/cdi/nvidia.yaml has nvidia.com/gpu",
        "GPUs of gpu2 by the toolkit: the engine has NVIDIA's container toolkit",
    ]


def test_a_cpu_cluster_asks_for_nothing() -> None:
    facts = cluster_facts({"gpu1": CDI})
    decided = resolve(inventory({"accelerator": {"kind": "cpu", "per_node": 1}}), facts)
    assert all("device_requests" not in spec.host_config for spec in container_specs(decided).values())
    assert make_plan(decided, facts).requests == {}


GENERATED = """---
cdiVersion: 0.5.0
containerEdits:
  deviceNodes:
  - path: /dev/nvidia-uvm
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  hooks:
  - args: [nvidia-cdi-hook, update-ldcache, --folder, /usr/lib/x86_64-linux-gnu]
    hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
  mounts:
  - containerPath: /usr/lib/x86_64-linux-gnu/libcuda.so.570.133.20
    hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.570.133.20
    options: [ro, nosuid, nodev, bind]
devices:
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
  name: "0"
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
  name: GPU-8836a272-ca08-9629-24b6-54ca9b98cd30
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
  name: all
kind: nvidia.com/gpu
"""


def test_the_probe_finds_the_specifications_of_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "etc/cdi/nvidia.yaml": GENERATED,
        "etc/cdi/broken.yaml": "kind: [",
        "etc/cdi/notes.txt": "not for the engine",
        "var/run/cdi/vendor.json": '{"cdiVersion":"0.5.0","kind":"vendor.com/nic","devices":[{"name":"eth0"}]}',
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setenv("CLUSTERCTL_ROOT", str(tmp_path))
    broken, nvidia, vendor = cdi.cdi_specs(probe(tmp_path))  # type: ignore[misc]
    names = ("0", "GPU-8836a272-ca08-9629-24b6-54ca9b98cd30", "all")
    assert nvidia == CdiSpec("/etc/cdi/nvidia.yaml", "nvidia.com/gpu", names, driver="570.133.20")
    assert vendor == CdiSpec("/var/run/cdi/vendor.json", "vendor.com/nic", ("eth0",))
    assert (broken.path, broken.kind) == ("/etc/cdi/broken.yaml", "")
    assert "kind: [" in str(broken.problem)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": 3}', "\0", "- a", "kind: x\ndevices: 7", "devices: [{}]"])
def test_no_file_ends_the_probe(text: str) -> None:
    for path in ("/etc/cdi/x.json", "/etc/cdi/x.yaml"):
        (spec,) = cdi.cdi_specs({"cdi": parse.Section(f"\n@@cdi {path}\n{text}", 0)})  # type: ignore[misc]
        assert spec.devices == ()


def test_a_probe_that_ended_too_early_is_not_no_specification() -> None:
    assert isinstance(cdi.cdi_specs({}), Unknown)
    facts = cluster_facts({"gpu1": {**CDI, "cdi": {"unknown": "the probe ended before `cdi`"}}, "gpu2": CDI})
    specs = container_specs(resolve(inventory(), facts))
    assert specs["gpu1"].host_config["device_requests"] == cdi_request("all")


def test_what_docker_info_says_of_cdi() -> None:
    said = {"ServerVersion": "28.3.2", "CDISpecDirs": DIRECTORIES,
            "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}, {"Source": "x", "ID": "y"}]}  # fmt: skip
    info = info_of(said)
    assert (info.cdi_directories, info.cdi_devices) == (tuple(DIRECTORIES), ("nvidia.com/gpu=0",))
    older = info_of({"ServerVersion": "20.10.24"})
    assert (older.cdi_directories, older.cdi_devices) == ((), ())


def test_unread_containers_and_engines_leave_it_at_the_toolkit() -> None:
    facts = cluster_facts({"gpu1": CDI, "gpu2": CDI})
    nodes = {name: replace(node, containers=Unknown("x"), engine=Unknown("y")) for name, node in facts.nodes.items()}
    decided = resolve(inventory(), replace(facts, nodes=nodes))
    assert {place.gpus.way for place in decided.places.values() if place.gpus} == {"toolkit"}
