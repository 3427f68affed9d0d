"""What does not divide: why vLLM would refuse a tensor- or pipeline-parallel size for a model. Pure.

Rules and numbers in the messages are vLLM 0.32's: config/model.py (heads), layers/attention and models/llama.py (KV
heads), distributed/utils.py (divide), layers/quantization/utils/fp8_utils.py and marlin_utils.py (blocks and groups).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from clusterctl.layout.architecture import Architecture
from clusterctl.layout.stages import layers_per_stage

Kind = Literal["heads", "blocks", "layers"]


@dataclass(frozen=True)
class Indivisible:
    """One thing that does not divide."""

    kind: Kind
    text: str


def indivisible(
    arch: Architecture, tensor: int, pipeline: int, *, expert_parallel: bool = False, partition: str | None = None
) -> tuple[Indivisible, ...]:
    """Everything that does not divide."""
    return (
        *_heads(arch, tensor, expert_parallel),
        *_blocks(arch, tensor, expert_parallel),
        *_layers(arch, pipeline, partition),
    )


def _heads(arch: Architecture, tensor: int, expert_parallel: bool) -> Iterator[Indivisible]:
    if arch.heads and arch.heads % tensor:
        yield Indivisible("heads", f"{arch.heads} attention heads are not divisible by TP {tensor}")
    # With latent attention there are no KV heads to divide. Fewer KV heads than ranks are copied, evenly or not at all.
    if arch.kv_heads and arch.latent is None:
        if arch.kv_heads >= tensor and arch.kv_heads % tensor:
            yield Indivisible("heads", f"{arch.kv_heads} KV heads are not divisible by TP {tensor}")
        elif arch.kv_heads < tensor and tensor % arch.kv_heads:
            yield Indivisible("heads", f"TP {tensor} is not divisible by {arch.kv_heads} KV heads")
    for size, what in _inner_sizes(arch, expert_parallel):
        if size % tensor:
            yield Indivisible("heads", f"{what} {size} is not divisible by TP {tensor}")


def _inner_sizes(arch: Architecture, expert_parallel: bool) -> Iterator[tuple[int, str]]:
    if arch.intermediate:
        yield arch.intermediate, "the feed-forward size"
    if arch.expert_intermediate and not expert_parallel:
        yield arch.expert_intermediate, "the experts' feed-forward size"


def _blocks(arch: Architecture, tensor: int, expert_parallel: bool) -> Iterator[Indivisible]:
    """Each shard of a quantised matrix must consist of whole blocks, so that scales can be divided too."""
    quantization = arch.quantization
    if quantization is None:
        return
    if quantization.block_n and quantization.block_k:
        for size, what in _inner_sizes(arch, expert_parallel):
            for block, name in ((quantization.block_n, "block_n"), (quantization.block_k, "block_k")):
                shard = size // tensor
                # An undivided matrix may end in a part of a block.
                if size % tensor == 0 and shard % block and (tensor > 1 or name == "block_n"):
                    text = f"{what} {size} / TP {tensor} = {shard} is not divisible by {name} {block}"
                    yield Indivisible("blocks", text)
                    break
    elif quantization.group_size and arch.intermediate and tensor > 1:
        # Experts are left out: their kernels can halve the groups (moe_wna16.py).
        group, shard = quantization.group_size, arch.intermediate // tensor
        if arch.intermediate % tensor == 0 and shard % group:
            text = f"the feed-forward size {arch.intermediate} / TP {tensor} = {shard} is not divisible by the "
            yield Indivisible("blocks", f"{text}quantisation group {group}")


def _layers(arch: Architecture, pipeline: int, partition: str | None) -> Iterator[Indivisible]:
    if not arch.layers:
        return
    if arch.layers < pipeline:
        yield Indivisible("layers", f"{arch.layers} layers are fewer than {pipeline} pipeline stages")
        return
    try:
        layers_per_stage(arch.layers, pipeline, partition)
    except ValueError as error:
        yield Indivisible("layers", str(error))
