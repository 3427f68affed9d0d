"""One tensor- and pipeline-parallel size, judged for a model and its accelerators. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clusterctl.facts.safetensors import Tensor
from clusterctl.layout.architecture import Architecture
from clusterctl.layout.divisible import Indivisible, Sizes, indivisible
from clusterctl.layout.kv_cache import BLOCK_TOKENS, OVERHEAD_BYTES, bytes_per_token, capacity_tokens
from clusterctl.layout.stages import layers_per_stage
from clusterctl.layout.weights import weights_per_gpu

GIB = 1024**3


@dataclass(frozen=True)
class Memory:
    """What one accelerator gives."""

    requested_bytes: int | None
    """GPU memory x gpu-memory-utilization: weights, KV cache and all else. None on CPUs."""
    kv_bytes: int | None = None
    """KV cache given outright: VLLM_CPU_KVCACHE_SPACE, or kv-cache-memory-bytes."""
    block_tokens: int = BLOCK_TOKENS["gpu"]


@dataclass(frozen=True)
class Load:
    """What is to be held. `unknown`: why weights or KV cache cannot be computed, whatever the layout."""

    arch: Architecture
    tensors: Mapping[str, Tensor] | None
    memory: Memory | None
    request_tokens: int | None
    value_bytes: int
    expert_parallel: bool = False
    engines: int = 1
    """Engines. Experts are divided over the ranks of all of them (vLLM 0.32: FusedMoEParallelConfig.make)."""
    partition: str | None = None
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """One pipeline stage; bytes are those of each of its GPUs. None: cannot be computed."""

    layers: int
    weights_bytes: int | None
    kv_bytes_per_token: int | None
    kv_budget_bytes: int | None
    kv_tokens: int | None


@dataclass(frozen=True)
class Candidate:
    """A layout and what it comes to."""

    tensor_parallel: int
    pipeline_parallel: int
    problems: tuple[Indivisible, ...]
    stages: tuple[Stage, ...]
    kv_tokens: int | None
    """Tokens in the KV cache: what the stage with the least room holds."""
    max_concurrency: float | None
    """Requests of the full length at once."""
    exact: bool
    """Whether the KV cache's size is given, not estimated from what the weights leave."""
    missing_bytes: int | None
    """What the fullest GPU lacks for the weights and one request of the full length; 0 where they fit."""

    @property
    def fits(self) -> bool | None:
        """Whether weights and one full request fit; None where that cannot be said."""
        return None if self.missing_bytes is None else self.missing_bytes == 0

    @property
    def possible(self) -> bool:
        """Whether nothing is known that keeps it from starting."""
        return not self.problems and self.fits is not False


def judge(load: Load, tensor_parallel: int, pipeline_parallel: int) -> Candidate:
    """A layout, with everything that can be said of it."""
    arch = load.arch
    sizes = Sizes(tensor_parallel, pipeline_parallel, load.engines, whole_experts=load.expert_parallel)
    problems = indivisible(arch, sizes, load.partition)
    if problems or not arch.layers:
        return Candidate(tensor_parallel, pipeline_parallel, problems, (), None, None, False, None)
    split = layers_per_stage(arch.layers, pipeline_parallel, load.partition)
    expert_ranks = tensor_parallel * load.engines
    weights = (
        None if load.tensors is None else weights_per_gpu(arch, load.tensors, split, tensor_parallel, expert_ranks)
    )
    stages = tuple(
        _stage(load, tensor_parallel, layers, None if weights is None else weights[number])
        for number, layers in enumerate(split)
    )
    tokens = [stage.kv_tokens for stage in stages if stage.layers]
    total = min((count for count in tokens if count is not None), default=None) if None not in tokens else None
    concurrency = total / load.request_tokens if total is not None and load.request_tokens else None
    exact = load.memory is not None and load.memory.kv_bytes is not None
    lacks = [_missing(load, stage) for stage in stages]
    missing = None if None in lacks else max((lack for lack in lacks if lack is not None), default=None)
    return Candidate(tensor_parallel, pipeline_parallel, (), stages, total, concurrency, exact, missing)


def _stage(load: Load, tensor_parallel: int, layers: int, weights: int | None) -> Stage:
    per_token = None if load.unknown else bytes_per_token(load.arch, layers, tensor_parallel, load.value_bytes)
    budget = _budget(load, weights)
    tokens = None
    if budget is not None and per_token and load.memory is not None and load.request_tokens:
        tokens = capacity_tokens(budget, per_token, load.memory.block_tokens, load.request_tokens)
    return Stage(layers, weights, per_token, budget, tokens)


def _budget(load: Load, weights: int | None) -> int | None:
    """Bytes of KV cache on one GPU; negative where even the weights do not fit."""
    if load.memory is None or load.unknown:
        return None
    if load.memory.kv_bytes is not None:
        return load.memory.kv_bytes
    if load.memory.requested_bytes is None or weights is None:
        return None
    return load.memory.requested_bytes - weights - OVERHEAD_BYTES


def _missing(load: Load, stage: Stage) -> int | None:
    """Bytes that one GPU of the stage lacks for weights and one full request, which vLLM asks for at least."""
    if stage.kv_budget_bytes is None:
        return None
    if stage.kv_bytes_per_token is None or load.request_tokens is None or load.memory is None:
        # Without an estimate of the KV cache: too small for the weights is all that can be said.
        return -stage.kv_budget_bytes if stage.kv_budget_bytes < 0 else None
    block = load.memory.block_tokens
    need = -(-load.request_tokens // block) * block * stage.kv_bytes_per_token
    return max(0, need - stage.kv_budget_bytes)
