"""How a model is spread over the nodes: tensor parallel inside a node, pipeline parallel across nodes.

Tensor parallel must not span nodes: every layer would wait for the network. So each node holds whole pipeline stages,
the same number on each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clusterctl.inventory.model import Inventory

Size = int | Literal["auto"]


@dataclass(frozen=True)
class Layout:
    """The sizes that vLLM and Ray are started with. `gpus_per_node` is how many accelerators each node gives."""

    tensor_parallel: int
    pipeline_parallel: int
    gpus_per_node: int


def resolve_layout(nodes: int, per_node: int, tensor_parallel: Size, pipeline_parallel: Size) -> Layout:
    """The layout for `nodes` nodes with `per_node` accelerators each.

    Raises ValueError, with a sentence for the operator, when the sizes do not fit.
    """
    tensor, pipeline = filled_in(nodes, per_node, tensor_parallel, pipeline_parallel)
    choices = f"tensor_parallel × pipeline_parallel can be {choices_text(nodes, per_node)}"
    if tensor > per_node:
        have = f"the {count(per_node, 'accelerator')} of one node, and tensor parallel must not span nodes"
        raise ValueError(f"tensor_parallel {tensor} is more than {have}; {choices}")
    if uneven := uneven_stages(nodes, pipeline):
        raise ValueError(f"{uneven}; {choices}")
    gpus_per_node = tensor * pipeline // nodes
    if gpus_per_node > per_node:
        need = f"tensor_parallel {tensor} × pipeline_parallel {pipeline} needs {count(gpus_per_node, 'accelerator')}"
        raise ValueError(f"{need} on each node, and there are {per_node}; {choices}")
    return Layout(tensor, pipeline, gpus_per_node)


def layout_of(inventory: Inventory, per_node: int) -> Layout:
    """The layout that an inventory asks for, on nodes with `per_node` accelerators each. Raises as `resolve_layout`."""
    serve = inventory.serve
    return resolve_layout(len(inventory.nodes), per_node, serve.tensor_parallel, serve.pipeline_parallel)


def uneven_stages(nodes: int, pipeline_parallel: int) -> str | None:
    """Why the stages cannot be spread evenly. Known without knowing how many accelerators there are."""
    if pipeline_parallel % nodes == 0:
        return None
    return (
        f"pipeline_parallel {pipeline_parallel} is not a multiple of {nodes}, the number of nodes: "
        "each node must hold the same number of whole stages"
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
    if pipeline_parallel == "auto":
        return tensor, nodes * max(1, per_node // tensor)
    return tensor, pipeline_parallel


def choices_text(nodes: int, per_node: int) -> str:
    """The layouts that use every accelerator, the recommended one first: 8 × 2, 4 × 4, 2 × 8 or 1 × 16."""
    sizes = [size for size in range(per_node, 0, -1) if per_node % size == 0]
    pairs = [f"{size} × {nodes * per_node // size}" for size in sizes]
    return pairs[0] if len(pairs) == 1 else f"{', '.join(pairs[:-1])} or {pairs[-1]}"


def count(number: int, noun: str) -> str:
    """`1 accelerator`, `8 accelerators`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
