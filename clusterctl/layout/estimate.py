"""How fast a layout would be: from the model's bytes and operations, the accelerators' figures and the links. Pure.

A roofline: a step takes as long as reading what it must read from memory or as calculating what it must calculate,
whichever is longer, then exchanges, and then waits for the engine's own work. Against measurements (8B, vLLM 0.26; two
H100 over TCP, and four H200: tests/unit/test_layout_ranking.py) the estimates were between 40 % below and 35 % above,
and the order was right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clusterctl.facts.safetensors import Tensor
from clusterctl.layout.architecture import Architecture
from clusterctl.layout.hardware import Accelerator
from clusterctl.layout.links import Link
from clusterctl.layout.weights import EXPERT

MEMORY_REACHED, FLOPS_REACHED = 0.8, 0.55
"""Parts of the peak figures that vLLM's kernels reach: of memory in decoding, of operations in prefill."""
STEP_S = 1.5e-3
"""For scheduling a step, and for starting its kernels from CUDA graphs (vLLM's V1 engine)."""
HOST_S = 60e-6
"""An engine's Python for each request of each step: scheduling, what was sampled, its API server's text. With TP4 on
H200 and vLLM 0.26 a token of 400 requests took 31 ms in the faster of two runs, the GPUs' part of it under 6 ms
(docs/reference/gpus-tested.md)."""
VALUE_BYTES = 2
"""Of an activation."""
ALL_REDUCES = 2
"""A layer's: after attention, and after the feed-forward part."""

UNCERTAINTY = 0.4
"""Part by which an estimate may be off, by that comparison."""


@dataclass(frozen=True)
class Model:
    """What one token takes."""

    layers: int
    hidden: int
    weight_bytes: int
    """All weights."""
    expert_bytes: int
    """Those of experts, of which a token passes a part."""
    experts: int
    experts_per_token: int
    kv_bytes: int
    """KV cache of one token, in all layers and heads."""
    flops: float
    """Operations for one token, attention's to earlier tokens not counted."""


@dataclass(frozen=True)
class Workload:
    """What is asked for: so many requests at once, each with so many tokens in and out."""

    requests: int = 256
    input_tokens: int = 512
    output_tokens: int = 128


@dataclass(frozen=True)
class Shape:
    """How one engine lies, and how many there are."""

    engines: int
    tensor_parallel: int
    pipeline_parallel: int
    tensor_link: Link | None
    """Between the ranks of a stage; None with one."""
    pipeline_link: Link | None
    """Between stages; None with one."""
    expert_link: Link | None = None
    """Between the ranks that experts are divided over, where these are of several engines or hold whole ones; None
    where they are those of a stage, which exchange with `tensor_link` anyway."""


@dataclass(frozen=True)
class Speed:
    """The estimate."""

    tokens_per_s: float
    """Output tokens of all engines, with the whole workload at once."""
    one_tokens_per_s: float
    """Output tokens of one request that is alone."""
    one_first_token_s: float
    """Until that request's first token."""


def model_of(arch: Architecture, tensors: Mapping[str, Tensor] | None, kv_bytes: int | None) -> Model | None:
    """The model's figures; None where something of them is not known."""
    if tensors is None or not arch.layers or not arch.hidden or kv_bytes is None:
        return None
    expert_tensors = [tensor for name, tensor in tensors.items() if EXPERT.search(name)]
    dense_tensors = [tensor for name, tensor in tensors.items() if not EXPERT.search(name)]
    experts = arch.experts or 0
    used = arch.experts_per_token or 0
    if expert_tensors and not (experts and used):
        return None
    part = used / experts if expert_tensors else 0.0
    return Model(
        layers=arch.layers,
        hidden=arch.hidden,
        weight_bytes=sum(tensor.size_bytes for tensor in tensors.values()),
        expert_bytes=sum(tensor.size_bytes for tensor in expert_tensors),
        experts=experts if expert_tensors else 0,
        experts_per_token=used,
        kv_bytes=kv_bytes,
        flops=2 * (_parameters(dense_tensors, arch) + part * _parameters(expert_tensors, arch)),
    )


_BYTES_OF: Mapping[str, float] = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}


def _parameters(tensors: list[Tensor], arch: Architecture) -> float:
    """Weights as numbers, of tensors that may hold several in one value: eight of 4 bits in an I32, two in a U8."""
    four_bits = arch.quantization is not None and "fp4" in arch.quantization.method.lower()
    packed = {"I32": 0.5, "U8": 0.5 if four_bits else 1.0}
    return sum(tensor.size_bytes / _BYTES_OF.get(tensor.dtype, packed.get(tensor.dtype, 1.0)) for tensor in tensors)


def speed(model: Model, accelerator: Accelerator, shape: Shape, work: Workload, kv_tokens: int | None = None) -> Speed:
    """The estimate. `kv_tokens`: what one engine's KV cache holds; requests beyond it wait."""
    per_engine = -(-work.requests // shape.engines)
    length = work.input_tokens + work.output_tokens
    at_once = max(1, min(per_engine, kv_tokens // length) if kv_tokens else per_engine)
    middle = work.input_tokens + work.output_tokens // 2
    prefill_s = _token_s(model, accelerator, shape)
    micro = max(1, at_once // shape.pipeline_parallel)
    decode_s = _with_host(_step_s(model, accelerator, shape, micro, middle) / micro / _busy(shape), shape)
    total_s = per_engine * (work.input_tokens * prefill_s / _busy(shape) + work.output_tokens * decode_s)
    stages = shape.pipeline_parallel
    return Speed(
        tokens_per_s=shape.engines * per_engine * work.output_tokens / total_s,
        one_tokens_per_s=1 / (stages * (_step_s(model, accelerator, shape, 1, middle) - STEP_S) + STEP_S),
        one_first_token_s=stages * work.input_tokens * prefill_s + STEP_S,
    )


def exchanged_bytes(model: Model, shape: Shape) -> int:
    """Bytes that each rank sends for one token, in all its layers."""
    tensor, engines = shape.tensor_parallel, shape.engines
    layers = model.layers / shape.pipeline_parallel
    activation = model.hidden * VALUE_BYTES
    reduced = layers * ALL_REDUCES * activation * 2 * (tensor - 1) / tensor
    stage = 2 * activation if shape.pipeline_parallel > 1 else 0  # hidden states and residual
    ranks = tensor * engines
    experts = layers * 2 * activation * (ranks - 1) / ranks * engines if shape.expert_link is not None else 0
    return round(reduced + stage + experts)


def _with_host(decode_s: float, shape: Shape) -> float:
    """Seconds for a token, the engine's own work for it included. It comes after a step; in a pipeline another batch is
    under way meanwhile."""
    return max(decode_s, HOST_S) if shape.pipeline_parallel > 1 else decode_s + HOST_S


def _busy(shape: Shape) -> float:
    """Part of the time in which a stage works: as many batches are under way as there are stages, and each waits for
    the others at the ends."""
    stages = shape.pipeline_parallel
    return stages / (2 * stages - 1)


def _token_s(model: Model, accelerator: Accelerator, shape: Shape) -> float:
    """Seconds of prefill for a token in one stage, in a batch that is large enough for the accelerators."""
    ranks = shape.tensor_parallel * shape.pipeline_parallel
    calculated = model.flops / ranks / (accelerator.flops_per_s * FLOPS_REACHED)
    return calculated + _exchange_s(model, shape, 1, latency=False)


def _step_s(model: Model, accelerator: Accelerator, shape: Shape, batch: int, length: int) -> float:
    """Seconds of a step of decoding in one stage, for a batch of requests of so many tokens."""
    ranks = shape.tensor_parallel * shape.pipeline_parallel
    read = _weights_read(model, shape, batch) + batch * length * model.kv_bytes / ranks
    memory_s = read / (accelerator.memory_bytes_per_s * MEMORY_REACHED)
    calculated_s = batch * model.flops / ranks / (accelerator.flops_per_s * FLOPS_REACHED)
    return max(memory_s, calculated_s) + _exchange_s(model, shape, batch, latency=True) + STEP_S


def _weights_read(model: Model, shape: Shape, batch: int) -> float:
    """Bytes of weights that a rank reads in a step: of experts those that any token of the batch passes."""
    ranks = shape.tensor_parallel * shape.pipeline_parallel
    dense = (model.weight_bytes - model.expert_bytes) / ranks
    if not model.experts:
        return dense
    spread = shape.expert_link is not None
    tokens = batch * shape.engines if spread else batch
    touched = 1 - (1 - model.experts_per_token / model.experts) ** tokens
    return dense + model.expert_bytes * touched / (ranks * shape.engines if spread else ranks)


def _exchange_s(model: Model, shape: Shape, batch: int, *, latency: bool) -> float:
    """Seconds for what a stage exchanges for a batch of tokens."""
    tensor, layers = shape.tensor_parallel, model.layers / shape.pipeline_parallel
    activation = batch * model.hidden * VALUE_BYTES
    seconds = 0.0
    if shape.tensor_link is not None and tensor > 1:
        link = shape.tensor_link
        one_s = activation * 2 * (tensor - 1) / tensor / link.bytes_per_s + (link.latency_s if latency else 0)
        seconds += layers * ALL_REDUCES * one_s
    if shape.pipeline_link is not None and shape.pipeline_parallel > 1:
        link = shape.pipeline_link
        seconds += 2 * activation / link.bytes_per_s + (link.latency_s if latency else 0)
    if shape.expert_link is not None:
        link, ranks = shape.expert_link, tensor * shape.engines
        # Every rank is sent all engines' tokens, and sends back its share of them (all-gather, reduce-scatter).
        one_s = activation * shape.engines * (ranks - 1) / ranks / link.bytes_per_s
        seconds += layers * 2 * (one_s + (link.latency_s if latency else 0))
    return seconds
