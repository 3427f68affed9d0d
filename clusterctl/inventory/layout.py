"""How a model is spread over the nodes: engines, and in each tensor parallel inside a node, pipeline parallel across.

`auto` never lets tensor parallel span nodes, since every layer would wait for the network; where it is asked for, a
stage lies on several whole nodes. Otherwise each node holds whole pipeline stages. Every node gives the same number of
accelerators either way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clusterctl.inventory.issue import listed
from clusterctl.inventory.model import Inventory

Size = int | Literal["auto"]


@dataclass(frozen=True)
class Layout:
    """The sizes that the server is started with. Tensor and pipeline parallel are those of one engine."""

    tensor_parallel: int
    pipeline_parallel: int
    gpus_per_node: int
    """How many accelerators each node gives."""
    data_parallel: int = 1
    """Engines."""


def layout_of(inventory: Inventory, per_node: int) -> Layout:
    """The layout that an inventory asks for, on nodes with `per_node` accelerators each. Raises as `resolve_layout`."""
    serve = inventory.serve
    return resolve_layout(
        len(inventory.nodes), per_node, serve.tensor_parallel, serve.pipeline_parallel, serve.data_parallel
    )


def resolve_layout(
    nodes: int, per_node: int, tensor_parallel: Size, pipeline_parallel: Size, data_parallel: int = 1
) -> Layout:
    """The layout for `nodes` nodes with `per_node` accelerators each.

    Raises ValueError, with a sentence for the operator, when the sizes do not fit.
    """
    own_nodes, slots = engine_room(nodes, per_node, data_parallel)
    tensor, pipeline = filled_in(own_nodes, slots, tensor_parallel, pipeline_parallel)
    choices = f"tensor_parallel × pipeline_parallel can be {choices_text(own_nodes, slots)}"
    if tensor_parallel != "auto" and tensor > own_nodes * slots:
        have = count(own_nodes * slots, "accelerator")
        owner = "of one engine" if data_parallel > 1 else "of one node" if nodes == 1 else f"of {nodes} nodes"
        raise ValueError(f"tensor_parallel {tensor} is more than the {have} {owner}; {choices}")
    if uneven := uneven_stages(own_nodes, pipeline, tensor_parallel):
        raise ValueError(f"{uneven}; {choices}")
    gpus_per_node = tensor * pipeline // own_nodes
    if gpus_per_node > slots:
        need = f"tensor_parallel {tensor} × pipeline_parallel {pipeline} needs {count(gpus_per_node, 'accelerator')}"
        where = "on each node" if data_parallel == 1 else "for each engine"
        raise ValueError(f"{need} {where}, and there are {slots}; {choices}")
    engines_per_node = data_parallel // nodes if data_parallel > 1 else 1
    return Layout(tensor, pipeline, gpus_per_node * engines_per_node, data_parallel)


def engine_room(nodes: int, per_node: int, data_parallel: int) -> tuple[int, int]:
    """What one engine has: so many nodes, and accelerators on each. Raises ValueError where they do not divide."""
    if data_parallel == 1:
        return nodes, per_node
    if uneven := uneven_engines(nodes, data_parallel):
        raise ValueError(uneven)
    total = nodes * per_node
    if total % data_parallel:
        fits = listed(str(size) for size in engine_counts(nodes, per_node))
        raise ValueError(
            f"data_parallel {data_parallel} does not divide {count(total, 'accelerator')}; data_parallel can be {fits}"
        )
    return 1, total // data_parallel


def engine_counts(nodes: int, per_node: int) -> tuple[int, ...]:
    """The numbers of engines that use every accelerator."""
    return (
        1,
        *(size for size in range(nodes, nodes * per_node + 1, nodes) if nodes * per_node % size == 0 and size > 1),
    )


def uneven_engines(nodes: int, data_parallel: int) -> str | None:
    """Why the engines cannot be spread evenly. Known without knowing how many accelerators there are."""
    if data_parallel == 1 or data_parallel % nodes == 0:
        return None
    return (
        f"data_parallel {data_parallel} is not a multiple of {nodes}, the number of nodes: each node must hold the "
        f"same number of whole engines; data_parallel can be 1, {nodes} or {2 * nodes}"
    )


def uneven_stages(nodes: int, pipeline_parallel: int, tensor_parallel: Size = "auto") -> str | None:
    """Why the stages cannot be spread evenly. Known without knowing how many accelerators there are."""
    if pipeline_parallel % nodes == 0:
        return None
    if tensor_parallel == "auto":
        return (
            f"pipeline_parallel {pipeline_parallel} is not a multiple of {nodes}, the number of nodes: "
            "each node must hold the same number of whole stages"
        )
    if nodes % pipeline_parallel == 0 and tensor_parallel % (nodes // pipeline_parallel) == 0:
        return None
    return (
        f"tensor_parallel {tensor_parallel} × pipeline_parallel {pipeline_parallel} does not lie evenly on {nodes} "
        "nodes: each must hold the same number of whole stages, or the same part of one"
    )


def filled_in(nodes: int, per_node: int, tensor_parallel: Size, pipeline_parallel: Size) -> tuple[int, int]:
    """Both sizes as numbers: what is `auto` uses as many accelerators as the other one leaves."""
    if tensor_parallel == "auto" and pipeline_parallel == "auto":
        return per_node, nodes
    if tensor_parallel == "auto":
        stages = int(pipeline_parallel)
        fits = stages % nodes == 0 and stages <= per_node * nodes
        return (per_node * nodes // stages if fits else per_node), stages
    tensor = int(tensor_parallel)
    if pipeline_parallel != "auto":
        return tensor, pipeline_parallel
    if tensor > per_node:
        return tensor, max(1, nodes * per_node // tensor)
    return tensor, nodes * max(1, per_node // tensor)


def choices_text(nodes: int, per_node: int) -> str:
    """The layouts that use every accelerator and keep tensor parallel inside a node, the recommended one first:
    8 × 2, 4 × 4, 2 × 8 or 1 × 16."""
    sizes = [size for size in range(per_node, 0, -1) if per_node % size == 0]
    pairs = [f"{size} × {nodes * per_node // size}" for size in sizes]
    return pairs[0] if len(pairs) == 1 else f"{', '.join(pairs[:-1])} or {pairs[-1]}"


def count(number: int, noun: str) -> str:
    """`1 accelerator`, `8 accelerators`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
