"""What config.json says of a model's architecture, as far as splitting it over accelerators depends on it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clusterctl.layout.towers import Tower, towers

TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where models with several modalities keep the language model's configuration."""

UNIFORM = frozenset(
    {
        *("llama", "mistral", "mistral3", "mixtral", "ministral", "pixtral"),
        *("qwen2", "qwen2_moe", "qwen2_vl", "qwen2_5_vl", "qwen2_5_vl_text", "qwen3", "qwen3_moe", "qwen3_vl"),
        *("qwen3_vl_moe", "qwen3_vl_text", "qwen3_vl_moe_text", "qwen2_vl_text"),
        *(
            "phi3",
            "phimoe",
            "gemma",
            "granite",
            "granitemoe",
            "olmo2",
            "olmoe",
            "internlm2",
            "internlm3",
            "internvl_chat",
        ),
        *("glm", "glm4", "glm4_moe", "gpt_neox", "starcoder2", "stablelm", "exaone", "ernie4_5", "ernie4_5_moe"),
        *("minimax_m2", "seed_oss", "hunyuan_v1_dense", "smollm3", "dots1", "bailing_moe", "solar", "aquila", "yi"),
    }
)
"""model_type of architectures whose layers all have the same full attention: KV cache = layers x heads x head_dim."""

LATENT = frozenset({"deepseek_v2", "deepseek_v3", "kimi_k2", "pangu_ultra_moe", "axk1", "glm4_moe_lite"})
"""model_type with multi-head latent attention (vLLM 0.32: is_deepseek_mla), but not those that have an indexer's cache
beside it (deepseek_v32, glm_moe_dsa) or other layers between (kimi_linear)."""

DTYPE_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}


@dataclass(frozen=True)
class Quantization:
    """How weights are quantised: blocks of block_n x block_k (FP8), or groups along the input."""

    method: str
    block_n: int | None = None
    block_k: int | None = None
    group_size: int | None = None
    fp8_kv_cache: bool = False


@dataclass(frozen=True)
class Architecture:
    """A model's sizes. None: config.json does not say."""

    name: str
    model_type: str
    layers: int | None
    heads: int | None
    kv_heads: int | None
    head_dim: int | None
    hidden: int | None
    """Values of a token between layers: what ranks exchange."""
    intermediate: int | None
    """Inner size of dense feed-forward layers; None where all layers have experts."""
    experts: int | None
    experts_per_token: int | None
    expert_intermediate: int | None
    latent: int | None
    """Values a token and layer in the KV cache with multi-head latent attention: kv_lora_rank + qk_rope_head_dim."""
    dtype_bytes: int
    """Bytes of an unquantised weight once loaded (vLLM loads float32 models as 16 bits, unless told otherwise)."""
    context: int | None
    quantization: Quantization | None
    towers: tuple[Tower, ...]
    """Encoders of images and sound that TP must divide."""
    irregular: str | None
    """Why the KV cache cannot be computed from these sizes; None where it can."""


def architecture(config: Mapping[str, Any]) -> Architecture:
    """What a config.json says. Never raises: what is missing or no number is None."""
    text = language_part(config)
    heads = _int(text, "num_attention_heads", "n_head", "num_heads")
    hidden = _int(text, "hidden_size", "n_embd", "d_model")
    head_dim = _int(text, "head_dim") or (hidden // heads if hidden and heads else None)
    experts = _int(text, "num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
    model_type = str(text.get("model_type") or config.get("model_type") or "?")
    intermediate = _int(text, "intermediate_size", "ffn_hidden_size", "n_inner")
    own_experts = _int(text, "moe_intermediate_size")
    lora, rope = _int(text, "kv_lora_rank"), _int(text, "qk_rope_head_dim")
    names = config.get("architectures")
    return Architecture(
        name=str(names[0]) if isinstance(names, list) and names else model_type,
        model_type=model_type,
        layers=_int(text, "num_hidden_layers", "n_layer", "num_layers"),
        heads=heads,
        kv_heads=_kv_heads(text, model_type, heads),
        head_dim=head_dim,
        hidden=hidden,
        intermediate=intermediate if not experts or _has_dense_layers(text) else None,
        experts=experts,
        experts_per_token=_int(text, "num_experts_per_tok", "moe_topk", "num_experts_per_token") if experts else None,
        expert_intermediate=(own_experts or intermediate) if experts else None,
        latent=lora + rope if model_type in LATENT and lora and rope else None,
        dtype_bytes=2 if _dtype(config, text) == 4 else _dtype(config, text),
        context=_context(text),
        quantization=_quantization(config.get("quantization_config") or text.get("quantization_config")),
        towers=towers(config),
        irregular=_irregular(text, model_type),
    )


def language_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a configuration: itself, unless a part has the attention heads."""
    if _int(config, "num_attention_heads", "n_head", "num_heads"):
        return config
    for name in TEXT_PARTS:
        part = config.get(name)
        if isinstance(part, Mapping):
            return language_part(part)
    return config


def _kv_heads(text: Mapping[str, Any], model_type: str, heads: int | None) -> int | None:
    # Falcon ignores the numbers when it has one KV head for all (vLLM: FalconModelArchConfigConvertor).
    if model_type == "falcon" and text.get("multi_query") and not text.get("new_decoder_architecture"):
        return 1
    return _int(text, "n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num") or heads


def _has_dense_layers(text: Mapping[str, Any]) -> bool:
    """Whether some layers of a model with experts have none, or all have a shared dense part of this size."""
    return bool(_int(text, "first_k_dense_replace") or text.get("mlp_only_layers"))


def _irregular(text: Mapping[str, Any], model_type: str) -> str | None:
    kinds = text.get("layer_types")
    if isinstance(kinds, list) and set(kinds) - {"full_attention"}:
        other = sorted({str(kind) for kind in kinds} - {"full_attention"})
        return f"its layers are not alike ({', '.join(other)})"
    window = text.get("sliding_window")
    if window and text.get("use_sliding_window", True):
        return f"it has sliding-window attention ({window} tokens)"
    for key, what in _IRREGULAR_KEYS.items():
        if text.get(key):
            return f"it has {what} ({key})"
    if model_type in LATENT:
        return (
            None if _int(text, "kv_lora_rank") and _int(text, "qk_rope_head_dim") else "its latent sizes are not given"
        )
    if model_type not in UNIFORM:
        return f"how architecture {model_type} keeps its KV cache is not known here"
    return None


_IRREGULAR_KEYS = {
    "sliding_window_pattern": "sliding-window attention",
    "attention_chunk_size": "chunked attention",
    "index_topk": "sparse attention with an indexer's cache",
    "cross_attention_layers": "cross attention",
    "is_encoder_decoder": "an encoder",
    "layers_block_type": "layers of several kinds",
    "hybrid_override_pattern": "layers of several kinds",
    "attn_type_list": "layers of several kinds",
    "block_configs": "layers of several kinds",
    "linear_num_value_heads": "linear attention",
    "mamba_d_state": "Mamba layers",
    "ssm_cfg": "Mamba layers",
    "state_size": "Mamba layers",
    "num_kv_shared_layers": "layers that share their KV cache",
    "compress_ratios": "a compressed KV cache",
}


def _context(text: Mapping[str, Any]) -> int | None:
    """Longest request where none is declared (vLLM 0.32, config/model.py: _get_and_verify_max_len)."""
    positions = _int(text, "max_position_embeddings", "seq_length", "n_positions", "max_sequence_length")
    scaling = text.get("rope_scaling") or text.get("rope_parameters")
    if not isinstance(scaling, Mapping) or positions is None:
        return positions
    factor, kind = scaling.get("factor"), scaling.get("rope_type", scaling.get("type"))
    if not isinstance(factor, int | float) or kind in ("su", "longrope", "llama3", "mrope", "default"):
        return positions
    original = _int(scaling, "original_max_position_embeddings") if kind == "yarn" else None
    return int((original or positions) * factor)


def _quantization(said: Any) -> Quantization | None:
    if not isinstance(said, Mapping):
        return None
    method = str(said.get("quant_method") or "?")
    block = said.get("weight_block_size")
    group = _int(said, "group_size", "q_group_size")
    groups = said.get("config_groups")
    weights: Any = {}
    if isinstance(groups, Mapping) and groups:
        first = next(iter(groups.values()))
        weights = first.get("weights") if isinstance(first, Mapping) else {}
    if isinstance(weights, Mapping):
        block = block or weights.get("block_structure")
        group = group or _int(weights, "group_size")
    scheme = said.get("kv_cache_scheme")
    fp8_kv = isinstance(scheme, Mapping) and scheme.get("num_bits") == 8
    if isinstance(block, list) and len(block) == 2 and all(isinstance(size, int) and size > 0 for size in block):
        return Quantization(method, block_n=block[0], block_k=block[1], fp8_kv_cache=fp8_kv)
    return Quantization(method, group_size=group if group and group > 0 else None, fp8_kv_cache=fp8_kv)


def _dtype(config: Mapping[str, Any], text: Mapping[str, Any]) -> int:
    said = [part.get(key) for part in (text, config) for key in ("dtype", "torch_dtype")]
    return next((DTYPE_BYTES[str(name)] for name in said if str(name) in DTYPE_BYTES), 2)


def _int(said: Mapping[str, Any], *names: str) -> int | None:
    """The first of these that is a whole number above zero."""
    for name in names:
        value = said.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
