"""Where the ranks of the server's engines lie, and the options that say so to vLLM: the same in every mode.

Ranks are counted from the head on, then over the other nodes in the inventory's order. With several engines each lies
on one node, and each node holds the same number of them; one engine spans all nodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from clusterctl.inventory.model import Inventory
from clusterctl.modes.mode import EnginePlace, Refusal, Seen, Stage
from clusterctl.modes.place import Deployment, Place


@dataclass(frozen=True)
class EngineStatus:
    """One engine as `plan`, `up` and `status` show it; what it does is None while nothing serves, or is not known."""

    rank: int
    nodes: tuple[str, ...]
    running: int | None = None
    """Requests that it works on."""
    waiting: int | None = None
    """Requests that wait for it."""
    kv_use: float | None = None
    """Fraction of its KV cache in use, 0 to 1."""


def nodes_by_rank(inventory: Inventory) -> tuple[str, ...]:
    """The nodes, the head first."""
    head = inventory.head_name
    return (head, *(node.name for node in inventory.nodes if node.name != head))


def engines_per_node(inventory: Inventory) -> int:
    """Engines that lie on a node; 1 also where the one engine spans nodes."""
    return max(1, inventory.serve.data_parallel // len(inventory.nodes))


def spans_nodes(inventory: Inventory) -> bool:
    """Whether one engine lies on several nodes."""
    return len(inventory.nodes) > 1 and inventory.serve.data_parallel == 1


def engine_places(inventory: Inventory) -> tuple[EnginePlace, ...]:
    """The engines by their rank, each with its nodes."""
    nodes, engines = nodes_by_rank(inventory), inventory.serve.data_parallel
    if engines == 1:
        return (EnginePlace(0, nodes),)
    per_node = engines_per_node(inventory)
    return tuple(EnginePlace(rank, (nodes[rank // per_node],)) for rank in range(engines))


def stage_places(deployment: Deployment) -> tuple[Stage, ...]:
    """The pipeline stages, each with the nodes that hold it, of whichever engine."""
    layout = deployment.layout
    holders: dict[int, dict[str, None]] = defaultdict(dict)
    world = layout.tensor_parallel * layout.pipeline_parallel
    for engine in engine_places(deployment.inventory):
        here = world // len(engine.nodes)
        for rank in range(world):
            holders[rank // layout.tensor_parallel][engine.nodes[rank // here]] = None
    return tuple(Stage(stage, tuple(holders[stage])) for stage in sorted(holders))


def refusals(inventory: Inventory, seen: Seen) -> Iterator[Refusal]:
    """What no mode serves: whole experts on each rank, of a model that has none."""
    if inventory.serve.expert_parallel and seen.experts == 0:
        yield Refusal(
            "expert_parallel asks for whole experts, and the model has none", "set serve.expert_parallel: false"
        )


def sizes(deployment: Deployment, backend: str) -> Mapping[str, Any]:
    """What vllm.yaml holds of an engine's sizes, and of the experts, on every node that runs a part of the server."""
    layout, serve = deployment.layout, deployment.inventory.serve
    return {
        "tensor-parallel-size": layout.tensor_parallel,
        "pipeline-parallel-size": layout.pipeline_parallel,
        "distributed-executor-backend": backend,
        **({"enable-expert-parallel": True} if serve.expert_parallel else {}),
    }


def api_servers(deployment: Deployment) -> Mapping[str, Any]:
    """How many processes take requests; vLLM's own choice unless the inventory says it. Only for the head's vllm.yaml:
    the others take none."""
    wanted = deployment.inventory.serve.api_servers
    return {} if wanted == "auto" else {"api-server-count": wanted}


def data_parallel(deployment: Deployment, place: Place) -> Mapping[str, Any]:
    """The options of several engines behind one endpoint (vLLM 0.32); nothing for one."""
    engines, per_node = deployment.layout.data_parallel, engines_per_node(deployment.inventory)
    if engines == 1:
        return {}
    rank = nodes_by_rank(deployment.inventory).index(place.name)
    return {
        "data-parallel-size": engines,
        "data-parallel-size-local": per_node,
        "data-parallel-address": str(deployment.head.address),
        "data-parallel-rpc-port": deployment.inventory.mp.ports.data_parallel,
        # On the head it would make vLLM serve each node's engines by themselves.
        **({"data-parallel-start-rank": rank * per_node} if rank else {}),
    }
