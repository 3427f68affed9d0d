"""params.json, the configuration of Mistral's own format, in the words of config.json. Pure.

As vLLM 0.32 translates it (transformers_utils/configs/mistral.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMES = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "hidden_dim": "intermediate_size",
    "tied_embeddings": "tie_word_embeddings",
}
_EXPERTS = {
    "num_experts": "n_routed_experts",
    "num_experts_per_tok": "num_experts_per_tok",
    "expert_hidden_dim": "moe_intermediate_size",
    "first_k_dense_replace": "first_k_dense_replace",
    "num_shared_experts": "n_shared_experts",
}
USUAL_POSITIONS = 128_000
"""Where neither file gives the longest request."""


def config_of(params: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What params.json says, with what a config.json `beside` it adds: vLLM asks it for what params.json leaves out."""
    said = {_NAMES.get(key, key): value for key, value in params.items()}
    hf = dict(beside or {})
    positions = said.get("max_position_embeddings") or said.get("max_seq_len") or _positions(hf) or USUAL_POSITIONS
    said |= {"max_position_embeddings": positions, **_architecture(said), **_quantization(said)}
    window = said.get("sliding_window")
    if isinstance(window, list):
        said["layer_types"] = ["sliding_attention" if each else "full_attention" for each in window]
        said["sliding_window"] = next((each for each in window if each), None)
    yarn = said.get("yarn")
    if isinstance(yarn, Mapping):
        said["rope_scaling"] = {"rope_type": "mrope", **yarn}  # max_position_embeddings is the extended length already
    vision, audio = _vision(params), _audio(params)
    if vision is not None:
        quantization = {"quantization_config": said["quantization_config"]} if "quantization_config" in said else {}
        return {
            "model_type": "pixtral",
            "architectures": ["PixtralForConditionalGeneration"],
            "text_config": said,
            "vision_config": vision,
            **quantization,
        }
    if audio is not None:
        return {
            "model_type": "voxtral",
            "architectures": ["VoxtralForConditionalGeneration"],
            "text_config": said,
            "audio_config": {
                "encoder_attention_heads": audio.get("n_heads"),
                "encoder_ffn_dim": audio.get("hidden_dim"),
            },
        }
    return said


def _architecture(said: Mapping[str, Any]) -> dict[str, Any]:
    experts = said.get("moe")
    if said.get("model_type") == "mamba":
        return {"architectures": ["Mamba2ForCausalLM"], "state_size": 128}
    if isinstance(experts, Mapping) and experts:
        own = {_EXPERTS[key]: value for key, value in experts.items() if key in _EXPERTS}
        if experts.get("num_shared_experts"):
            return {**own, "model_type": "deepseek_v3", "architectures": ["MistralLarge3ForCausalLM"]}
        own.setdefault("moe_intermediate_size", said.get("intermediate_size"))
        return {**own, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
    return {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}


def _quantization(said: Mapping[str, Any]) -> dict[str, Any]:
    given = said.get("quantization")
    if not isinstance(given, Mapping) or not given:
        return {}
    if given.get("qformat_weight") == "fp8_e4m3":
        return {"quantization_config": {"quant_method": "fp8"}}
    return {"quantization_config": {**given, "quant_method": given.get("quant_method") or "?"}}


def _positions(config: Mapping[str, Any]) -> Any:
    text = config.get("text_config")
    return config.get("max_position_embeddings") or (
        text.get("max_position_embeddings") if isinstance(text, Mapping) else None
    )


def _vision(params: Mapping[str, Any]) -> Mapping[str, Any] | None:
    parts = params.get("multimodal")
    nested = parts.get("vision_encoder_args") if isinstance(parts, Mapping) else None
    given = nested or params.get("vision_encoder")
    return given if isinstance(given, Mapping) else None


def _audio(params: Mapping[str, Any]) -> Mapping[str, Any] | None:
    parts = params.get("multimodal")
    whisper = parts.get("whisper_model_args") if isinstance(parts, Mapping) else None
    given = whisper.get("encoder_args") if isinstance(whisper, Mapping) else None
    return given if isinstance(given, Mapping) else None
