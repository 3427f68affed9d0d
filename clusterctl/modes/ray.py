"""Serving over Ray: ports, arguments, environment, and the names of its actors."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from clusterctl.inventory.model import Inventory, PortRange
from clusterctl.modes.mode import Stage
from clusterctl.modes.place import Deployment, Place
from clusterctl.secrets.masking import SECRETS_IN_USE
from clusterctl.secrets.names import looks_secret

WORKER_SAMPLES = 8
"""Ports of Ray's worker range that are tried, its ends among them: a firewall opens ranges, not every second port."""


def pinned_ports(inventory: Inventory, node: str) -> tuple[int, ...]:
    """Ports of this node that Ray connects to from the others. The API's port is not one: it is for clients."""
    pinned = inventory.ray.ports.model_dump(exclude={"workers"})
    if node != inventory.head_name:
        del pinned["gcs"]
    return (*pinned.values(), *worker_sample(inventory.ray.ports.workers))


def worker_sample(workers: PortRange) -> tuple[int, ...]:
    """Some ports of the range, evenly spread, with both ends."""
    width = workers.last - workers.first
    count = min(WORKER_SAMPLES, width + 1)
    return tuple(sorted({workers.first + width * index // max(1, count - 1) for index in range(count)}))


def ports_of(inventory: Inventory, node: str) -> dict[int, str]:
    """Fixed ports that will be listened on at a node, each with its inventory field."""
    pinned = inventory.ray.ports.model_dump(exclude={"workers"})
    wanted = {port: f"ray.ports.{field}" for field, port in pinned.items()}
    if node == inventory.head_name:
        wanted[inventory.serve.port] = "serve.port"
    else:
        wanted.pop(inventory.ray.ports.gcs)
    return wanted


def not_carried(inventory: Inventory) -> list[str]:
    """Names of variables that vLLM must not copy from the server to its workers (F70).

    vLLM copies all of the server's environment to workers that lack a value (RayExecutorV2), or what begins with VLLM_,
    HF_ and the like (the older executor, data parallel), but for the names in this list: vllm/ray/ray_env.py and
    vllm/v1/executor/ray_env_utils.py of 0.32. It knows no patterns, so names are written out. What the inventory sets
    is on each node that it is meant for anyway.
    """
    asked = [*inventory.container.env, *(name for node in inventory.nodes for name in node.env)]
    return sorted({*SECRETS_IN_USE, *(name for name in asked if looks_secret(name))})


def ray_argv(deployment: Deployment, place: Place) -> Sequence[str]:
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
        return ["start", f"--address={deployment.head.address}:{ports.gcs}", *common]
    # Head-only flags: on a worker they abort `ray start`. The dashboard is a job API (F65); the monitor
    # is the autoscaler's: there is nothing to scale.
    return ["start", "--head", f"--port={ports.gcs}", "--include-dashboard=false", "--no-monitor", *common]


_PP = re.compile(r"_PP(\d+)")
"""vllm_Worker_<id>[_TP{t}][_PP{p}], each part only where its size is above 1 (vLLM 0.32, v1/executor/ray_utils.py,
build_actor_name). With three or more nodes the order of stages is by random Ray node ID, so only the actors tell it
(vllm-ray-facts, surprise 5)."""


def stages(workers: Mapping[str, Any], names: Mapping[str, str]) -> tuple[Stage, ...]:
    """Stages in order. `workers`: actor name → address; `names`: address → node name."""
    holders: dict[int, set[str]] = defaultdict(set)
    for actor, address in workers.items():
        match = _PP.search(actor)
        holders[int(match[1]) if match else 0].add(names.get(str(address), str(address)))
    return tuple(Stage(rank, tuple(sorted(nodes))) for rank, nodes in sorted(holders.items()))
