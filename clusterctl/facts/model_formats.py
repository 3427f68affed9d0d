"""Which of the files in a model's directory vLLM loads: the same model is often there in two formats. Pure.

What `auto` means was read in vLLM 0.32: transformers_utils/config.py (get_config), model_loader/default_loader.py
(_prepare_weights), tokenizers/registry.py. Files called consolidated*.safetensors make it Mistral's own format,
also where a Hugging Face model lies beside them; its configuration then is params.json, if that is there too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from clusterctl.facts import gguf_config, mistral
from clusterctl.facts.fact import Fact, Unknown
from clusterctl.facts.gguf import Gguf
from clusterctl.facts.model_files import ModelFiles

CONSOLIDATED = "consolidated*.safetensors"
HF_CONFIG, MISTRAL_CONFIG = "config.json", "params.json"
HF_INDEX, MISTRAL_INDEX = "model.safetensors.index.json", "consolidated.safetensors.index.json"
BIN_INDEX = "pytorch_model.bin.index.json"
NOT_WEIGHTS = frozenset({"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"})
"""What training leaves; vLLM leaves it out too (weight_utils.py: filter_files_not_needed_for_inference)."""

_PATTERNS = {
    "hf": ("*.safetensors", "*.bin", "*.pt"),
    "auto": ("*.safetensors", "*.bin", "*.pt"),
    "safetensors": ("*.safetensors",),
    "fastsafetensors": ("*.safetensors",),
    "instanttensor": ("*.safetensors",),
    "bitsandbytes": ("*.safetensors", "*.bin", "*.pt"),
    "mistral": (CONSOLIDATED,),
    "pt": ("*.pt",),
    "npcache": ("*.bin",),
    "gguf": ("*.gguf",),
}
"""vLLM's load format → names of files, the first that there are any of."""

_NUMBERED = re.compile(r"(.*-)(\d{5})-of-(\d{5})(\..+)")


@dataclass(frozen=True)
class Asked:
    """Formats as serve.options name them."""

    config: str = "auto"
    load: str = "auto"
    tokenizer: str = "auto"


AUTO = Asked()


def asked(options: Mapping[str, Any]) -> Asked:
    """What the options of `vllm serve` say."""
    return Asked(
        str(options.get("config-format", "auto")),
        str(options.get("load-format", "auto")),
        str(options.get("tokenizer-mode", "auto")),
    )


def matching(names: Iterable[str], pattern: str) -> tuple[str, ...]:
    """Names that fit a pattern, in order."""
    return tuple(sorted(name for name in names if fnmatchcase(name, pattern)))


def has_consolidated(files: ModelFiles) -> bool:
    """Whether there are weights in Mistral's own format: what decides `auto`, for configuration and tokenizer too."""
    return bool(matching({*files.sizes, *files.dangling}, CONSOLIDATED))


def is_gguf(files: ModelFiles) -> bool:
    """Whether the model is a GGUF file: the path is one, or the directory has no other weights."""
    if files.single is not None:
        return files.single.endswith(".gguf")
    return bool(files.ggufs) and not any(matching(files.sizes, pattern) for pattern in _PATTERNS["hf"])


def config_format(files: ModelFiles, said: Asked = AUTO) -> str:
    """`hf`, `mistral` or `gguf`, or another that is asked for by name."""
    if said.config != "auto":
        return said.config
    if is_gguf(files):
        return "hf" if HF_CONFIG in files.sizes else "gguf"
    names = {*files.sizes, *files.dangling}
    return "mistral" if has_consolidated(files) and MISTRAL_CONFIG in names else "hf"


def load_format(files: ModelFiles, said: Asked = AUTO) -> str:
    """`hf`, `mistral` or `gguf`, or another that is asked for by name."""
    if said.load != "auto":
        return said.load
    if is_gguf(files):
        return "gguf"
    return "mistral" if has_consolidated(files) else "hf"


def config_of(files: ModelFiles, said: Asked = AUTO) -> Fact[Mapping[str, Any]]:
    """The configuration that vLLM takes, in the words of config.json; None where there is none."""
    kind = config_format(files, said)
    if kind == "mistral":
        beside = files.config if isinstance(files.config, Mapping) else None
        return mistral.config_of(files.params, beside) if isinstance(files.params, Mapping) else files.params
    if kind == "gguf":
        first = main_gguf(files)
        return gguf_config.config_of(first) if isinstance(first, Gguf) else first
    return files.config


def main_gguf(files: ModelFiles) -> Fact[Gguf]:
    """The header of the model's (first) GGUF file; None where there is none."""
    names = backbone(files)
    if not names:
        return None
    return files.ggufs.get(names[0], Unknown(f"the header of {names[0]} was not read"))


def backbone(files: ModelFiles) -> tuple[str, ...]:
    """GGUF files that hold the model itself, not its vision part: one, or all parts of the first."""
    names = [name for name in sorted(files.sizes) if name.endswith(".gguf") and not _is_projector(files, name)]
    if files.single is not None:
        names = [name for name in names if name == files.single]
    if not names:
        return ()
    match = _NUMBERED.fullmatch(names[0])
    parts = [name for name in names if (other := _NUMBERED.fullmatch(name)) and match and other[1] == match[1]]
    return tuple(parts) or (names[0],)


def _is_projector(files: ModelFiles, name: str) -> bool:
    header = files.ggufs.get(name)
    return name.startswith("mmproj") or (isinstance(header, Gguf) and header.architecture == gguf_config.PROJECTOR)


def index_of(files: ModelFiles, kind: str) -> Fact[tuple[str, ...]]:
    """Files that the format's own index names; None without an index."""
    if kind == "mistral":
        return files.mistral_shards
    if kind == "gguf":
        return None
    return files.index_shards if matching(_known(files), "*.safetensors") else files.bin_shards


def loaded(files: ModelFiles, said: Asked = AUTO) -> tuple[str, ...]:
    """Names of the files with weights that vLLM reads, as far as they are there."""
    kind = load_format(files, said)
    if kind == "gguf":
        return backbone(files)
    patterns = _PATTERNS.get(kind, _PATTERNS["hf"])
    names = next((found for each in patterns if (found := matching(files.sizes, each))), ())
    index = index_of(files, kind)
    if isinstance(index, tuple) and names and names[0].endswith((".safetensors", ".bin")):
        names = tuple(name for name in names if name in index) or names
    if kind != "mistral":
        # Both formats without an index: vLLM would load both, which fails (model-weights-twice); it is one model.
        names = tuple(name for name in names if not fnmatchcase(name, CONSOLIDATED)) or names
    return tuple(name for name in names if name not in NOT_WEIGHTS)


def wanted(files: ModelFiles, said: Asked = AUTO) -> frozenset[str]:
    """Files with weights that there must be: what the index names, and all parts where a name says how many."""
    kind = load_format(files, said)
    index = index_of(files, kind)
    named = set(index) if isinstance(index, tuple) else set()
    there = _known(files) if kind != "gguf" else set(backbone(files))
    patterns = _PATTERNS.get(kind, _PATTERNS["hf"])
    own = next((found for each in patterns if (found := matching(there, each))), ())
    if kind != "mistral":
        own = tuple(name for name in own if not fnmatchcase(name, CONSOLIDATED)) or own
    # An index is the whole truth; files beside it are no part of the model.
    return frozenset(named or {*_all_parts(own)})


def _known(files: ModelFiles) -> set[str]:
    return {*files.sizes, *files.dangling}


def _all_parts(names: Iterable[str]) -> Iterable[str]:
    """The names, and those that are missing of model-00001-of-00003.safetensors."""
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is None or not 0 < int(match[3]) <= 10_000:
            yield name
            continue
        yield from (f"{match[1]}{number:05}-of-{match[3]}{match[4]}" for number in range(1, int(match[3]) + 1))
