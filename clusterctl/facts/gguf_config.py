"""What a GGUF file's metadata say of the model, in the words of config.json. Pure.

Keys are those of ggml's docs/gguf.md and of llama.cpp's converter (gguf-py/gguf/constants.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterctl.facts.gguf import BLOCKS, Gguf

MODEL_TYPES = {
    "qwen2moe": "qwen2_moe",
    "qwen2vl": "qwen2_vl",
    "qwen3moe": "qwen3_moe",
    "qwen3vl": "qwen3_vl",
    "qwen3vlmoe": "qwen3_vl_moe",
    "qwen3next": "qwen3_next",
    "deepseek2": "deepseek_v3",
    "glm4moe": "glm4_moe",
    "gptneox": "gpt_neox",
    "hunyuan-dense": "hunyuan_v1_dense",
    "ernie4_5-moe": "ernie4_5_moe",
}
"""llama.cpp's name of an architecture → model_type, where the two differ by more than dashes."""

PROJECTOR = "clip"
"""Architecture of the file with the vision part (mmproj-…gguf), which is loaded beside the model's own."""

_KEYS = {
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "first_k_dense_replace": "leading_dense_block_count",
    "sliding_window": "attention.sliding_window",
    "kv_lora_rank": "attention.kv_lora_rank",
    "vocab_size": "vocab_size",
    "state_size": "ssm.state_size",
    "num_nextn_predict_layers": "nextn_predict_layers",
    "num_kv_shared_layers": "attention.shared_kv_layers",
}


def config_of(file: Gguf) -> dict[str, Any]:
    """The model's sizes; those that the file does not give are left out."""
    name = file.architecture
    said = {key: file.metadata.get(f"{name}.{suffix}") for key, suffix in _KEYS.items()}
    config: dict[str, Any] = {key: value for key, value in said.items() if value is not None}
    blocks = file.metadata.get(f"{name}.block_count")
    if isinstance(blocks, int):
        # Layers for speculative decoding are counted with the others.
        config["num_hidden_layers"] = blocks - int(config.get("num_nextn_predict_layers") or 0)
    config["model_type"] = MODEL_TYPES.get(name, name.replace("-", "_"))
    if isinstance(config.get("kv_lora_rank"), int):
        config["qk_rope_head_dim"] = file.metadata.get(f"{name}.rope.dimension_count")
    for key in ("num_attention_heads", "num_key_value_heads", "intermediate_size", "sliding_window"):
        _of_each_layer(config, key)
    config.setdefault("vocab_size", _vocabulary(file))
    group = max((BLOCKS.get(tensor.dtype, 1) for name, tensor in file.tensors.items() if "ffn_down" in name), default=1)
    if group > 1:
        config["quantization_config"] = {"quant_method": "gguf", "group_size": group}
    return config


def _of_each_layer(config: dict[str, Any], key: str) -> None:
    """One number where all layers have the same; layers that differ are said to."""
    values = config.get(key)
    if isinstance(values, list):
        own = {value for value in values if isinstance(value, int)}
        if len(own) == 1:
            config[key] = own.pop()
        else:
            del config[key]
            config["block_configs"] = True


def _vocabulary(file: Gguf) -> int | None:
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, Mapping):
        return int(tokens["length"])
    return len(tokens) if isinstance(tokens, list) else None
