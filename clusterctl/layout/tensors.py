"""The tensors that vLLM loads, by the names that Hugging Face models have, whatever the files call them. Pure.

Layers for speculative decoding (multi-token prediction) are left out: they are loaded with speculative-config only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from clusterctl.facts.gguf import Gguf
from clusterctl.facts.model_files import ModelFiles
from clusterctl.facts.model_formats import AUTO, Asked, load_format, loaded, wanted
from clusterctl.facts.safetensors import Header, Tensor

_PREDICTION = re.compile(r"(?:^|\.)(?:mtp|mtp_\w+|nextn)\.|(?:^|\.)mtp_\w+$")
"""mtp.layers.0 (Qwen3-Next), model.mtp_layers.0 (MiMo), model.mtp_block.0 (Ernie), blk.46.nextn (GGUF). DeepSeek's and
GLM's are layers beyond num_hidden_layers (weights.py)."""

_PARTS = {
    # Mistral (vLLM 0.32: models/mistral.py, mistral_large_3.py).
    "tok_embeddings": "embed_tokens", "output": "lm_head", "attention": "self_attn", "feed_forward": "mlp",
    "wq": "q_proj", "wk": "k_proj", "wv": "v_proj", "wo": "o_proj", "w1": "gate_proj", "w2": "down_proj",
    "w3": "up_proj", "wq_a": "q_a_proj", "wq_b": "q_b_proj", "wkv_a_with_mqa": "kv_a_proj_with_mqa",
    "wkv_b": "kv_b_proj",
}  # fmt: skip
_GGUF_PARTS = {
    # llama.cpp: gguf-py/gguf/constants.py, TENSOR_NAMES.
    "token_embd": "embed_tokens", "output": "lm_head", "output_norm": "norm", "blk": "layers",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj", "attn_q_a": "self_attn.q_a_proj",
    "attn_q_b": "self_attn.q_b_proj", "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_b": "self_attn.kv_b_proj", "attn_k_b": "self_attn.kv_b_proj.k", "attn_v_b": "self_attn.kv_b_proj.v",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "ffn_gate_inp": "mlp.gate",
    "exp_probs_b": "mlp.gate.e_score_correction_bias",
    "ffn_gate_exps": "mlp.experts.gate_proj", "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj", "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj", "ffn_down_shexp": "mlp.shared_experts.down_proj",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
}  # fmt: skip


def tensors_of(files: ModelFiles, said: Asked = AUTO) -> Mapping[str, Tensor] | None:
    """All tensors of the model; None unless every file that vLLM would load is there with a header that can be read."""
    names = loaded(files, said)
    if not names or wanted(files, said) - set(names):
        return None
    found: dict[str, Tensor] = {}
    for name in names:
        header = files.ggufs.get(name) if name.endswith(".gguf") else files.headers.get(name)
        if not isinstance(header, Header | Gguf):
            return None
        found |= header.tensors
    if load_format(files, said) == "gguf":
        return _named(found, _GGUF_PARTS)
    return _named(found, _PARTS if load_format(files, said) == "mistral" else {})


def _named(tensors: Mapping[str, Tensor], parts: Mapping[str, str]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in tensors.items():
        if not _PREDICTION.search(name):
            found[".".join(parts.get(part, part) for part in name.split(".")) if parts else name] = tensor
    return found
