"""What the unit tests share: inventories and facts made from small differences to a good cluster of two nodes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from clusterctl.deployment.resolve import resolve
from clusterctl.facts.cdi import CdiSpec
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.records import (
    ContainerFacts,
    EngineFacts,
    Gpu,
    GpuProcess,
    ImageFacts,
    InterfaceAddress,
    Listener,
    OtherCluster,
    Unreachable,
)
from clusterctl.inventory.model import Inventory
from clusterctl.modes.place import Deployment
from clusterctl.planning.container import ContainerSpec, container_specs
from tests.unit import machines, model_files
from tests.unit.machines import fact

FIXTURES = Path(__file__).parent / "fixtures"

BASE: dict[str, Any] = {
    "version": 1,
    "cluster": "demo",
    "network": {"cidr": "10.77.0.0/24"},
    "nodes": [
        {"name": "gpu1", "host": "gpu1.example.com"},
        {"name": "gpu2", "host": "gpu2.example.com"},
    ],
    "container": {"image": "vllm:1"},
    "accelerator": {"kind": "nvidia", "per_node": 2},
    "model": {"path": "/models/llama"},
    "serve": {},
    "ray": {},
    "timeouts": {},
}

CONFIG, SHARDS = model_files.CONFIG, model_files.SHARDS


def merged(base: Any, changes: Any) -> Any:
    """`base` with the keys of `changes` in place; maps are merged, everything else is replaced."""
    if not isinstance(base, Mapping) or not isinstance(changes, Mapping):
        return deepcopy(changes)
    return {key: merged(base.get(key), changes[key]) if key in changes else deepcopy(base[key])
            for key in [*base, *(key for key in changes if key not in base)]}  # fmt: skip


def inventory(changes: Mapping[str, Any] | None = None) -> Inventory:
    """The base inventory with changes. Only for valid ones: tests/inventory has the others."""
    return Inventory.model_validate_json(json.dumps(merged(BASE, changes or {})))


def node_facts(number: int, changes: Mapping[str, Any] | None = None) -> NodeFacts:
    """Facts of a good node, except for what `changes` says, in the notation of fixtures/findings.yaml."""
    said = dict(changes or {})
    fields: dict[str, Any] = {
        "hostname": f"gpu{number}",
        "kernel": fact(said.pop("kernel", "6.1.0"), str),
        "memory_available_bytes": fact(said.pop("memory_available_bytes", 1 << 40), int),
        "addresses": _addresses(said.pop("addresses", {f"10.77.0.1{number}": "eth1"})),
        "listeners": _listeners(said.pop("listeners", {"22": "sshd (pid 1)"})),
        "gpus": _gpus(said.pop("gpus", 2)),
        "gpu_processes": _gpu_processes(said.pop("gpu_processes", {})),
        "infiniband": fact(said.pop("infiniband", None), tuple),
        "rdma": machines.rdma(said.pop("rdma", None)),
        "system": machines.system(said.pop("system", {}), number),
        "nvidia": machines.nvidia(said.pop("nvidia", {})),
        "amd_render_nodes": fact(said.pop("amd_render_nodes", None), tuple),
        "amd_gpus": fact(said.pop("amd_gpus", None), int),
        "cdi": fact(said.pop("cdi", {}), _cdi),
        "engine": fact(said.pop("engine", {}), _engine),
        "image": _image(said.pop("image", "one")),
        "containers": _containers(said.pop("containers", ())),
        "others": tuple(
            OtherCluster(
                other, f"{other}-node", *(map(frozenset, (each, ()) if isinstance(each, list) else each.values()))
            )
            for other, each in said.pop("others", {}).items()
        ),
        "routing": machines.routing(said.pop("routing", None)),
        "gpu_remarks": tuple(said.pop("gpu_remarks", ())),
        "login_prints": said.pop("login_prints", ""),
        "leftovers": tuple(said.pop("leftovers", ())),
        "model": _model(said.pop("model", {})),
        "cache": said.pop("cache", None),
    }
    assert not said, f"no such facts: {said}"
    return NodeFacts(**fields)


def cluster_facts(
    nodes: Mapping[str, Mapping[str, Any] | None] | None = None, unreachable: Mapping[str, str] | None = None
) -> ClusterFacts:
    """Facts of gpu1 and gpu2 (or as many as are named), each with its own changes."""
    said = {"gpu1": None, "gpu2": None, **(nodes or {})}
    lost = unreachable or {}
    found = {n: node_facts(i, changes) for i, (n, changes) in enumerate(said.items(), start=1) if n not in lost}
    return ClusterFacts(found, {name: Unreachable(reason, None) for name, reason in lost.items()})


def deployment(
    changes: Mapping[str, Any] | None = None, nodes: Mapping[str, Mapping[str, Any] | None] | None = None
) -> Deployment:
    """What `up` wants for the base inventory with changes."""
    return resolve(inventory(changes), cluster_facts(nodes))


def specs(
    changes: Mapping[str, Any] | None = None, nodes: Mapping[str, Mapping[str, Any] | None] | None = None
) -> Mapping[str, ContainerSpec]:
    """Node name → its container, for the base inventory with changes."""
    return container_specs(deployment(changes, nodes))


def container(
    spec: ContainerSpec | None = None,
    *,
    name: str = "demo-node",
    status: str = "running",
    state: Mapping[str, Any] | Unknown | None = None,
    labels: Mapping[str, str] | None = None,
    policy: str = "always",
) -> ContainerFacts:
    """A container of the cluster; with `spec`, as `up` started it."""
    own = {"clusterctl.spec": spec.hash} if spec else {}
    values = json.loads(json.dumps(spec.values())) if spec else None
    exit_code = 1 if status == "exited" else 0
    return ContainerFacts("c0ffee", name, {**own, **(labels or {})}, status, exit_code, "", policy, 0, values, state)


def with_containers(
    facts: ClusterFacts, containers: Mapping[str, tuple[ContainerFacts, ...] | Unknown]
) -> ClusterFacts:
    """The facts with these containers on the named nodes."""
    nodes = {
        name: NodeFacts(**{**vars(node), "containers": containers.get(name, node.containers)})
        for name, node in facts.nodes.items()
    }
    return ClusterFacts(nodes, facts.unreachable)


def _addresses(value: Any) -> Any:
    return fact(value, lambda v: tuple(InterfaceAddress(i, IPv4Address(a)) for a, i in v.items()))


def _listeners(value: Any) -> Any:
    return fact(value, lambda v: tuple(Listener("0.0.0.0", int(port), process) for port, process in v.items()))


def _gpus(value: Any) -> Any:
    """A number of GPUs, or what differs of each, or `unified` for one without memory of its own."""
    if value == "unified":
        return (Gpu(0, "NVIDIA GB10", "GPU-0", None, None),)
    return fact(value, lambda v: tuple(machines.gpu(i, s) for i, s in enumerate([{}] * v if isinstance(v, int) else v)))


def _engine(said: Mapping[str, Any]) -> EngineFacts:
    good = {"version": "20.10", "cgroup_driver": "systemd", "runtimes": ("runc",), "data_root": "/docker"}
    lists = {name: tuple(value) for name, value in said.items() if isinstance(value, list)}
    return EngineFacts(**{**good, **said, **lists})


def _cdi(said: Mapping[str, Mapping[str, Any]]) -> tuple[CdiSpec, ...]:
    """Path → devices of NVIDIA's GPUs, and what else differs."""
    return tuple(
        CdiSpec(path, each.get("kind", "nvidia.com/gpu"), tuple(map(str, each.get("devices", ["0", "1", "all"]))),
                each.get("driver"), each.get("problem"))
        for path, each in said.items()
    )  # fmt: skip


def _gpu_processes(value: Any) -> Any:
    """PID → name, or name and container."""
    return fact(
        value,
        lambda v: tuple(
            GpuProcess("GPU-0", int(pid), each, 100)
            if isinstance(each, str)
            else GpuProcess("GPU-0", int(pid), each[0], 100, each[1])
            for pid, each in v.items()
        ),
    )


def _image(value: Any) -> Any:
    """An image by the name of its content; `one@2` is the content `one` under another ID."""
    return fact(value, lambda v: ImageFacts(f"sha256:{v}", (f"layer-of-{v.split('@')[0]}",)))


def _containers(value: Any) -> Any:
    """Names, or name → labels."""
    return fact(
        value,
        lambda v: tuple(container(name=name, labels=v[name] if isinstance(v, Mapping) else None) for name in v),
    )


def _model(value: Any) -> Any:
    def read(said: Mapping[str, Any]) -> Any:
        config = fact(said.get("config", {}), lambda changes: merged(CONFIG, changes))
        return model_files.model_files(said, config, fact(said.get("index", SHARDS), tuple))

    return fact(value, read)
