"""Serving over Ray: every node in one Ray cluster, the server on the head."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from clusterctl.agent import paths
from clusterctl.agent.state import AgentState
from clusterctl.inventory.issue import Issue
from clusterctl.inventory.layout import Layout, layout_of
from clusterctl.inventory.model import Inventory, PortRange, RayPorts
from clusterctl.inventory.raw import size
from clusterctl.inventory.rules.all import Rule
from clusterctl.inventory.rules.serve import layout
from clusterctl.modes.engines import api_servers, engine_places, engines_per_node, sizes
from clusterctl.modes.mode import (
    Completion,
    EnginePlace,
    Gate,
    Process,
    ProcessLives,
    Refusal,
    Secret,
    Seen,
    Stage,
    Watch,
)
from clusterctl.modes.place import Deployment, Place
from clusterctl.modes.ports import OF_EVERY_MODE, PortField, listener_of, ports_on
from clusterctl.secrets.masking import SECRETS_IN_USE
from clusterctl.secrets.names import looks_secret

TOKEN_PATH = f"{paths.CONFIG_DIR}/ray-token"
"""Ray reads its token there (RAY_AUTH_TOKEN_PATH, Ray 2.60)."""

NOT_CARRIED_PATH = f"{paths.VLLM_CONFIG_ROOT}/ray_non_carry_over_env_vars.json"
"""vLLM reads it when it is imported: vllm/ray/ray_env.py (0.32)."""

STOP_S = 5.0
"""Seconds for Ray to end by itself. With the server gone it holds nothing that is worth more."""


@dataclass(frozen=True)
class RayNodes(Gate):
    """Exactly the declared nodes, each with exactly its accelerators, are alive in Ray."""

    kind: ClassVar[str] = "ray-nodes"

    address: str
    """Of Ray's control store."""
    port: int
    raylet_port: int
    """On every node."""
    expected: Mapping[str, int]
    """Address -> accelerators."""


@dataclass(frozen=True)
class RayActors(Watch):
    """Ray still has every node, and every worker that the server began to serve with."""

    kind: ClassVar[str] = "ray-actors"


@dataclass(frozen=True)
class ControlStore(Watch):
    """The head's Ray, without which a worker's is nothing."""

    kind: ClassVar[str] = "ray-control-store"

    address: str
    port: int


def _port_fields() -> Iterator[PortField]:
    defaults = RayPorts()
    for name in RayPorts.model_fields:
        value = getattr(defaults, name)
        span = (value.first, value.last) if isinstance(value, PortRange) else (value, value)
        yield PortField(("ray", "ports", name), span, head_only=name == "gcs")
    yield from OF_EVERY_MODE


LISTENS = tuple(_port_fields())

SMALLEST_WORKER_PORT = 1024
"""Ray refuses worker ports below it."""


def worker_ports(data: object) -> Iterator[Issue]:
    """The inventory's rule for Ray's workers: their range must be one, and hold a process for each accelerator and the
    server."""
    (field,) = (each for each in LISTENS if each.is_range)
    workers = listener_of(field, data)
    if workers is None:
        return
    per_node = size(data, "accelerator", "per_node")
    needed = (per_node if isinstance(per_node, int) else 1) + 1
    ports = workers.last - workers.first + 1
    if ports <= 0:
        yield Issue(workers.path, f"first {workers.first} is above last {workers.last}", "swap them")
    elif workers.first < SMALLEST_WORKER_PORT:
        yield Issue(workers.path, f"starts at {workers.first}, but Ray refuses ports below {SMALLEST_WORKER_PORT}")
    elif ports < needed:
        message = (
            f"has {ports} ports, but a node needs at least {needed}: one for each accelerator and one for the server"
        )
        yield Issue(workers.path, message, "use a few hundred: Ray also keeps an idle worker for each CPU core")


_PP = re.compile(r"_PP(\d+)")
"""vllm_Worker_<id>[_TP{t}][_PP{p}], each part only where its size is above 1 (vLLM 0.32, v1/executor/ray_utils.py,
build_actor_name). With three or more nodes the order of stages is by random Ray node ID, so only the actors tell it
(vllm-ray-facts, surprise 5)."""

_ENGINE = re.compile(r"_dp(\d+)(?=_TP|_PP|$)")
"""With several engines <id> ends in _dp{rank} (vLLM 0.32, v1/engine/utils.py, _apply_dp_identity_suffix). Which of the
other nodes gets which engine is by random Ray node ID too; only the head's are always the first."""

PER_NODE = frozenset({"GLOO_SOCKET_IFNAME", "NCCL_IB_DISABLE", "NCCL_IB_HCA", "NCCL_NET", "NCCL_SOCKET_IFNAME"})
"""Variables that each node has its own value of (deployment/environment.py)."""


class Ray:
    """The mode `ray`."""

    name = "ray"
    owned: Mapping[str, str] = {
        "master-port": "remove it: the nodes are joined by Ray",
        "data-parallel-rpc-port": "remove it: the engines are joined by Ray",
    }
    owned_environment = frozenset(
        {"RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "VLLM_CONFIG_ROOT"}
    )
    rules: tuple[Rule, ...] = (worker_ports, layout)
    listens = LISTENS
    secret_paths: tuple[str, ...] = (TOKEN_PATH,)
    own_ports = "Ray's ports"
    traffic: tuple[str, ...] = ("Ray", "NCCL", "Gloo", "TCPStore")
    counts_members = True
    steps: Mapping[str, str] = {"ray": "forming the Ray cluster"}
    counted: Mapping[str, str] = {"nodes": "nodes in Ray"}

    def refuses(self, inventory: Inventory, seen: Seen) -> Iterator[Refusal]:
        """An image without Ray."""
        if seen.lacks is not None and "ray" in seen.lacks:
            instead = "set serve.executor: mp, which needs none, or an image that has Ray"
            yield Refusal(f"{inventory.container.image} holds no Ray", instead)

    def listens_for(self, inventory: Inventory) -> tuple[PortField, ...]:
        """All of them that are on."""
        return tuple(field for field in self.listens if field.is_on(inventory))

    def world(self, inventory: Inventory, accelerators: int) -> Layout:
        """Tensor parallel inside a node unless it is asked for, whole pipeline stages on each."""
        return layout_of(inventory, accelerators)

    def ports(self, inventory: Inventory, node: str) -> Mapping[int, str]:
        """Ray's pinned ports, the metrics', and the API's on the head."""
        return ports_on(self.listens, inventory, node)

    def secrets(self, inventory: Inventory) -> Mapping[str, Secret]:
        """Ray's token."""
        return {TOKEN_PATH: Secret("ray.token_file", inventory.ray.token_file)}

    def environment(self, deployment: Deployment, place: Place) -> Mapping[str, str]:
        """Where Ray is, and how to speak to it."""
        address, port = _control_store(deployment)
        return {
            # Ray folds equal lines of several workers into one, and with them the one that says why a rank died.
            "RAY_DEDUP_LOGS": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ADDRESS": f"{address}:{port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": TOKEN_PATH,
            "VLLM_CONFIG_ROOT": paths.VLLM_CONFIG_ROOT,  # where it looks for the list of `not_carried`
        }

    def files(self, deployment: Deployment, place: Place) -> Mapping[str, str]:
        """What the server must not copy to its workers."""
        if place.role != "head":
            return {}
        return {NOT_CARRIED_PATH: json.dumps(not_carried(deployment.inventory), indent=2)}

    def server(self, deployment: Deployment, place: Place) -> Mapping[str, Any]:
        """One server, on the head."""
        if place.role != "head":
            return {}
        return {**sizes(deployment, "ray"), **_data_parallel(deployment), **api_servers(deployment)}

    def processes(self, deployment: Deployment, place: Place) -> tuple[Process, ...]:
        """Ray on every node; on the head the server too."""
        # A worker keeps its modules loaded until the head is there: half of a join's time.
        after = None if place.role == "head" else _control_store(deployment)
        ray = Process("ray", "ray", ray_argv(deployment, place), gated=False, after=after, stop_s=STOP_S)
        if place.role != "head":
            return (ray,)
        argv = ("vllm", "serve", "--config", paths.SERVER_CONFIG_PATH)
        return (ray, Process("server", "server", argv, gated=True, alone=True))

    def stop_order(self, deployment: Deployment, place: Place) -> tuple[str, ...]:
        """The server before the Ray that it runs on."""
        return ("server", "ray") if place.role == "head" else ("ray",)

    def gate(self, deployment: Deployment, place: Place) -> Gate:
        """On the head, for its server."""
        if place.role != "head":
            return Gate()
        per_node = deployment.layout.gpus_per_node
        expected = {str(other.address): per_node for other in deployment.places.values()}
        return RayNodes(*_control_store(deployment), deployment.inventory.ray.ports.node_manager, expected)

    def watches(self, deployment: Deployment, place: Place) -> tuple[Watch, ...]:
        """Ray on every node; the server and its workers from the head; the head from its workers."""
        ray = ProcessLives("ray", "ray-exited")
        if place.role != "head":
            return (ray, ControlStore("ray", *_control_store(deployment)))
        engines = self.engines(deployment)
        completions = (Completion("server", engine.rank, len(engines)) for engine in engines)
        return (ray, ProcessLives("server", "server-exited"), *completions, RayActors("server"))

    def engines(self, deployment: Deployment) -> tuple[EnginePlace, ...]:
        """One over all nodes, or several that each lie on one; the head's come first."""
        return engine_places(deployment.inventory)

    def members(self, state: AgentState) -> Mapping[str, float] | None:
        """Ray's own count."""
        return state.nodes

    def held(self, states: Mapping[str, AgentState], nodes: Mapping[str, str]) -> Mapping[int, tuple[str, ...]]:
        """By the names and addresses of vLLM's actors, where there are several engines."""
        holders: dict[int, set[str]] = defaultdict(set)
        for actor, address in _workers(states):
            if match := _ENGINE.search(actor):
                holders[int(match[1])].add(nodes.get(address, address))
        return {rank: tuple(sorted(held)) for rank, held in holders.items()}

    def stages(
        self, states: Mapping[str, AgentState], nodes: Mapping[str, str], deployment: Deployment | None = None
    ) -> tuple[Stage, ...]:
        """In order, from the names and addresses of vLLM's actors, which the head's agent reports."""
        holders: dict[int, set[str]] = defaultdict(set)
        for actor, address in _workers(states):
            match = _PP.search(actor)
            holders[int(match[1]) if match else 0].add(nodes.get(address, address))
        return tuple(Stage(rank, tuple(sorted(held))) for rank, held in sorted(holders.items()))


RAY = Ray()


def _control_store(deployment: Deployment) -> tuple[str, int]:
    """Address and port of Ray's control store."""
    return str(deployment.head.address), deployment.inventory.ray.ports.gcs


def _workers(states: Mapping[str, AgentState]) -> Iterator[tuple[str, str]]:
    """Names and addresses of vLLM's actors, as the agents report them."""
    return ((name, str(address)) for state in states.values() for name, address in state.workers.items())


def _data_parallel(deployment: Deployment) -> Mapping[str, Any]:
    """The options of several engines behind one endpoint (vLLM 0.32); nothing for one. vLLM itself asks Ray for as many
    on each other node as on the head (VLLM_RAY_DP_PACK_STRATEGY strict, its default: v1/engine/utils.py,
    create_dp_placement_groups)."""
    if deployment.layout.data_parallel == 1:
        return {}
    return {
        "data-parallel-size": deployment.layout.data_parallel,
        "data-parallel-size-local": engines_per_node(deployment.inventory),
        "data-parallel-address": str(deployment.head.address),
        "data-parallel-backend": "ray",
    }


def not_carried(inventory: Inventory) -> list[str]:
    """Names of variables that vLLM must not copy from the server to its workers.

    vLLM copies all of the server's environment to workers that lack a value (RayExecutorV2), or what begins with VLLM_,
    HF_ and the like (the older executor, data parallel), but for the names in this list: vllm/ray/ray_env.py and
    vllm/v1/executor/ray_env_utils.py of 0.32. It knows no patterns, so names are written out. What the inventory sets
    is on each node that it is meant for anyway; and engines' actors would get the head's interfaces, which need not be
    theirs.
    """
    own = {name for node in inventory.nodes for name in node.env}
    return sorted({*SECRETS_IN_USE, *PER_NODE, *own, *(name for name in inventory.container.env if looks_secret(name))})


def ray_argv(deployment: Deployment, place: Place) -> tuple[str, ...]:
    """`ray start` for this node: explicit address, exactly its GPUs, every port pinned (Ray 2.60)."""
    inventory, ports = deployment.inventory, deployment.inventory.ray.ports
    common = [
        "--block",
        f"--node-ip-address={place.address}",
        f"--num-gpus={deployment.layout.gpus_per_node}",
        f"--node-manager-port={ports.node_manager}",
        f"--object-manager-port={ports.object_manager}",
        f"--runtime-env-agent-port={ports.runtime_env_agent}",
        f"--dashboard-agent-grpc-port={ports.dashboard_agent_grpc}",
        f"--dashboard-agent-listen-port={ports.dashboard_agent_http}",
        f"--metrics-export-port={ports.metrics_export}",
        f"--min-worker-port={ports.workers.first}",
        f"--max-worker-port={ports.workers.last}",
        "--disable-usage-stats",
    ]
    if inventory.ray.object_store_bytes is not None:
        common.append(f"--object-store-memory={inventory.ray.object_store_bytes}")
    if place.role == "worker":
        return ("ray", "start", f"--address={deployment.head.address}:{ports.gcs}", *common)
    # Head-only flags: on a worker they abort `ray start`. The dashboard is a job API; the monitor
    # is the autoscaler's: there is nothing to scale.
    return ("ray", "start", "--head", f"--port={ports.gcs}", "--include-dashboard=false", "--no-monitor", *common)
