"""Bytes of weights on each GPU, from the tensors that safetensors headers name. Pure.

Where vLLM puts a tensor: layers on their stage, embeddings on the first stage (and on the last, when the output head is
tied to them), the final norm and the output head on the last. Matrices are divided by TP; norms, routers and the
latent down-projections are not; K and V have at least one head on every rank.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction

from clusterctl.facts.safetensors import Tensor
from clusterctl.layout.architecture import Architecture

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.(.+)$")
_OTHER_MODALITY = re.compile(
    r"(?:^|\.)(?:visual|vision\w*|audio\w*|image\w*|multi_modal_projector|mm_projector|mlp1|"
    r"patch_merger|pre_mm_projector_norm|mm_whisper_embeddings|vpm|apm|resampler)\."
)
_EMBEDDING = re.compile(r"(?:embed_tokens|tok_embeddings|embed_in|wte|word_embeddings)\.")
_OUTPUT = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output)\.(?!.*layers)")
EXPERT = re.compile(r"(?:^|\.)experts\.")
"""A tensor of one expert, or of all of them; not of the shared ones, which every token passes."""
_REPLICATED = re.compile(r"norm|q_a_proj|kv_a_proj|(?:^|\.)gate\.|router|e_score_correction_bias|(?:q|k)_layernorm")
_KEY_OR_VALUE = re.compile(r"(?:^|\.)[kv]_proj\.")
_FUSED = re.compile(r"(?:qkv_proj|query_key_value|c_attn|W_pack)\.")


def weights_per_gpu(
    arch: Architecture,
    tensors: Mapping[str, Tensor],
    split: Sequence[int],
    tensor_parallel: int,
    expert_ranks: int | None = None,
) -> tuple[int, ...]:
    """Bytes of weights on each GPU of every stage. `split`: layers per stage; `expert_ranks`: ranks over which
    experts are divided, whole or each; None: as all else."""
    stages = [Fraction(0)] * len(split)
    first_layers = [sum(split[:stage]) for stage in range(len(split))]
    last = len(split) - 1
    tied = not any(_OUTPUT.search(name) for name in tensors)
    for name, tensor in tensors.items():
        size = _loaded_bytes(arch, tensor)
        layer = _LAYER.search(name)
        if _OTHER_MODALITY.search(name):
            places, share = range(len(split)), Fraction(1)
        elif layer:
            number = int(layer[1])
            if number >= sum(split):
                continue  # layers for speculative decoding (DeepSeek's MTP), not loaded without it
            stage = max(s for s, begin in enumerate(first_layers) if begin <= number and split[s])
            places, share = range(stage, stage + 1), _share(arch, layer[2], tensor_parallel, expert_ranks)
        elif _EMBEDDING.search(name):
            places = range(0, len(split), last) if tied and last else range(1)
            share = Fraction(1, tensor_parallel)
        elif _OUTPUT.search(name):
            places, share = range(last, last + 1), Fraction(1, tensor_parallel)
        else:
            places, share = range(last, last + 1), Fraction(1)
        for stage in places:
            stages[stage] += size * share
    return tuple(int(size) for size in stages)


def _loaded_bytes(arch: Architecture, tensor: Tensor) -> int:
    """Bytes once loaded: an unquantised float32 checkpoint is loaded with 16 bits (vLLM's dtype `auto`)."""
    plain = arch.quantization is None or arch.quantization.method == "gguf"
    if tensor.dtype == "F32" and plain and arch.dtype_bytes == 2:
        return tensor.size_bytes // 2
    return tensor.size_bytes


def _share(arch: Architecture, name: str, tensor_parallel: int, expert_ranks: int | None) -> Fraction:
    """The part of a layer's tensor that one rank holds."""
    if expert_ranks is not None and EXPERT.search(name):
        return Fraction(1, expert_ranks)
    if _REPLICATED.search(name):
        return Fraction(1)
    if arch.kv_heads and arch.latent is None:
        own = Fraction(max(1, arch.kv_heads // tensor_parallel), arch.kv_heads)
        if _KEY_OR_VALUE.search(name):
            return own
        if _FUSED.search(name) and arch.heads:
            part = Fraction(arch.heads, tensor_parallel) + 2 * own * arch.kv_heads
            return part / (arch.heads + 2 * arch.kv_heads)
    return Fraction(1, tensor_parallel)
