"""Encoders of images and sound beside the language model: whether TP divides them. Pure.

Read in vLLM 0.32: the assertions are in models/siglip.py, clip.py, qwen2_5_vl.py, glm4_1v.py, whisper.py and others
(`divide(num_heads, tp_size)`). `mm-encoder-tp-mode: data` gives each rank the whole encoder and a part of the images;
a model that has no such mode goes back to dividing (config/model.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

WITH_DATA_MODE = frozenset(
    {
        *("qwen2_vl", "qwen2_5_vl", "qwen2_5_omni", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"),
        *("glm4v", "glm4v_moe", "llama4", "kimi_vl", "minicpmv", "step3_vl", "dots_ocr", "eagle2_5_vl", "isaac"),
    }
)
"""model_type of models that know `mm-encoder-tp-mode: data` (supports_encoder_tp_data)."""

UNDIVIDED = frozenset(
    {
        # Every rank has the whole encoder, or the model takes it whole by itself where TP does not divide it.
        *("gemma3n", "gemma4", "deepseek_vl_v2", "openvla", "qwen2_audio", "ultravox"),
        *("internvl_chat", "kimi_k25", "muse_glimmer", "qwen3_omni_moe"),
    }
)
"""model_type of models for whose encoder TP does not matter."""

_VISION = ("vision_config", "vision_encoder_args", "vision_encoder", "vit_config")
_HEADS = ("num_attention_heads", "num_heads", "attention_heads", "heads")
_MLP_SIZE_ELSEWHERE = frozenset({"glm4v", "glm4v_moe"})
"""There intermediate_size is that of the projector."""
_WHISPER = frozenset({"voxtral", "whisper"})
"""Models whose sound goes through vLLM's own, divided Whisper encoder."""


@dataclass(frozen=True)
class Tower:
    """One encoder. A size that is not given is None."""

    what: str
    """`vision` or `audio`."""
    heads: int | None
    intermediate: int | None
    data_mode: bool
    """Whether the model knows `mm-encoder-tp-mode: data`."""


def towers(config: Mapping[str, Any]) -> tuple[Tower, ...]:
    """The encoders that TP must divide; none where the model takes them whole anyway."""
    parts = [config, *(config[key] for key in ("thinker_config",) if isinstance(config.get(key), Mapping))]
    names = {str(part.get("model_type")) for part in parts}
    if names & UNDIVIDED:
        return ()
    return tuple(tower for part in parts for tower in _of(part, names))


def _of(part: Mapping[str, Any], names: set[str]) -> Iterator[Tower]:
    data_mode = bool(names & WITH_DATA_MODE)
    for key in _VISION:
        said = part.get(key)
        if isinstance(said, Mapping):
            size = None if names & _MLP_SIZE_ELSEWHERE else _int(said, "intermediate_size")
            yield Tower("vision", _int(said, *_HEADS), size, data_mode)
            break
    if names & _WHISPER:
        audio = part.get("audio_config")
        said = audio if isinstance(audio, Mapping) else part
        heads = _int(said, "encoder_attention_heads", "num_attention_heads")
        yield Tower("audio", heads, _int(said, "encoder_ffn_dim", "intermediate_size"), data_mode=False)


def undivided(found: tuple[Tower, ...], tensor: int) -> Iterator[str]:
    """What TP does not divide, each with what is possible instead."""
    for tower in found:
        for size, what in ((tower.heads, "attention heads"), (tower.intermediate, "feed-forward size")):
            if size and size % tensor:
                sizes = f"{size} {what}" if what.endswith("heads") else f"{what} {size}"
                verb = "are" if what.endswith("heads") else "is"
                yield f"the {tower.what} encoder's {sizes} {verb} not divisible by TP {tensor}{_instead(tower)}"
                break


def _instead(tower: Tower) -> str:
    return " (serve.options.mm-encoder-tp-mode: data leaves it whole)" if tower.data_mode else ""


def _int(said: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = said.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
