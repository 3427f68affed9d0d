"""KV cache: bytes a token, and tokens that fit. Pure."""

from __future__ import annotations

from math import ceil

from clusterctl.layout.architecture import Architecture

OVERHEAD_BYTES = 3 * 512 * 1024 * 1024
"""Taken off a GPU's share for what is neither weights nor KV cache: activations, CUDA graphs, NCCL, and what the driver
keeps for itself of the memory that nvidia-smi shows. Measured once: 1.34 GiB (lab-facts: Llama 8B, TP 2 x PP 2, H200,
vLLM 0.26). It grows with max-num-batched-tokens and the vocabulary; how much was not measured."""

BLOCK_TOKENS = {"gpu": 16, "cpu": 128}
"""Tokens of one KV-cache block, vLLM 0.32's defaults (platforms/cpu.py; config/cache.py)."""


def bytes_per_token(arch: Architecture, layers: int, tensor_parallel: int, value_bytes: int) -> int | None:
    """KV cache of one token on one GPU that holds `layers` layers; None where the architecture does not tell."""
    if arch.irregular is not None:
        return None
    if arch.latent is not None:
        return layers * arch.latent * value_bytes  # one latent for all heads: every rank keeps all of it
    if not arch.kv_heads or not arch.head_dim:
        return None
    return layers * max(1, arch.kv_heads // tensor_parallel) * 2 * arch.head_dim * value_bytes


def capacity_tokens(budget_bytes: int, token_bytes: int, block_tokens: int, request_tokens: int) -> int:
    """Tokens that vLLM says it can hold (v1/core/kv_cache_utils.py: get_kv_cache_capacity).

    Whole blocks are given out, and a request of `request_tokens` takes whole blocks too.
    """
    blocks = max(0, budget_bytes) // (token_bytes * block_tokens)
    return int(blocks / ceil(request_tokens / block_tokens) * request_tokens)
