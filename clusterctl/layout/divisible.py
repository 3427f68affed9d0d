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
from clusterctl.layout.towers import undivided

Kind = Literal["heads", "blocks", "layers", "tower"]


@dataclass(frozen=True)
class Indivisible:
    """One thing that does not divide."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class Sizes:
    """What a model is divided by."""

    tensor: int
    pipeline: int
    engines: int = 1
    whole_experts: bool = False
    """Whether ranks hold whole experts; else each expert is divided over the ranks of all engines."""

    @property
    def expert(self) -> int:
        """The parts that an expert is divided into."""
        return 1 if self.whole_experts else self.tensor * self.engines


def indivisible(arch: Architecture, sizes: Sizes, partition: str | None = None) -> tuple[Indivisible, ...]:
    """Everything that does not divide."""
    return (
        *_heads(arch, sizes),
        *_towers(arch, sizes),
        *_blocks(arch, sizes),
        *_layers(arch, sizes.pipeline, partition),
    )


def _heads(arch: Architecture, sizes: Sizes) -> Iterator[Indivisible]:
    tensor = sizes.tensor
    if arch.heads and arch.heads % tensor:
        yield Indivisible("heads", f"{arch.heads} attention heads are not divisible by TP {tensor}")
    # With latent attention there are no KV heads to divide. Fewer KV heads than ranks are copied, evenly or not at all.
    if arch.kv_heads and arch.latent is None:
        if arch.kv_heads >= tensor and arch.kv_heads % tensor:
            yield Indivisible("heads", f"{arch.kv_heads} KV heads are not divisible by TP {tensor}")
        elif arch.kv_heads < tensor and tensor % arch.kv_heads:
            yield Indivisible("heads", f"TP {tensor} is not divisible by {arch.kv_heads} KV heads")
    for size, what, parts, by in _inner_sizes(arch, sizes):
        if size % parts:
            yield Indivisible("heads", f"{what} {size} is not divisible by {by}")


def _towers(arch: Architecture, sizes: Sizes) -> Iterator[Indivisible]:
    for said in undivided(arch.towers, sizes.tensor):
        yield Indivisible("tower", said)


def _inner_sizes(arch: Architecture, sizes: Sizes) -> Iterator[tuple[int, str, int, str]]:
    """Inner sizes of feed-forward parts: size, what it is, the parts that it is divided into, and their name."""
    tensor = f"TP {sizes.tensor}"
    if arch.intermediate:
        yield arch.intermediate, "the feed-forward size", sizes.tensor, tensor
    if arch.expert_intermediate and not sizes.whole_experts:
        by = f"DP {sizes.engines} x {tensor}" if sizes.engines > 1 else tensor
        yield arch.expert_intermediate, "the experts' feed-forward size", sizes.expert, by


def _blocks(arch: Architecture, sizes: Sizes) -> Iterator[Indivisible]:
    """Each shard of a quantised matrix must consist of whole blocks, so that scales can be divided too."""
    quantization, tensor = arch.quantization, sizes.tensor
    if quantization is None:
        return
    if quantization.block_n and quantization.block_k:
        for size, what, parts, by in _inner_sizes(arch, sizes):
            for block, name in ((quantization.block_n, "block_n"), (quantization.block_k, "block_k")):
                shard = size // parts
                # An undivided matrix may end in a part of a block.
                if size % parts == 0 and shard % block and (parts > 1 or name == "block_n"):
                    text = f"{what} {size} / {by} = {shard} is not divisible by {name} {block}"
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
