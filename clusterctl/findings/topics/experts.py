"""The model's experts, as far as its files tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.model_files import ModelFiles
from clusterctl.facts.model_formats import config_of
from clusterctl.facts.safetensors import Header
from clusterctl.findings.topics.model import files_by_node
from clusterctl.layout.weights import EXPERT

COUNTS = frozenset({"num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts"})
"""What config.json calls their number (vLLM 0.32, transformers_utils/model_arch_config_convertor.py)."""


def experts(facts: ClusterFacts) -> int | None:
    """Of the model, by the first config.json that could be read; 0: it has none. None: not known."""
    for files in files_by_node(facts).values():
        config = config_of(files)
        if isinstance(config, Mapping):
            return max(counts(config), default=None if _has_expert_weights(files) else 0)
    return None


def counts(said: Any) -> Iterator[int]:
    """Every number of experts that a configuration names, at any depth: of a part (`text_config`), of some layers
    (`block_configs`), in Mistral's own notation (`moe`), or as a list by kind of token. Zero is none."""
    if isinstance(said, list):
        for each in said:
            yield from counts(each)
    if not isinstance(said, Mapping):
        return
    for name, value in said.items():
        named = value if isinstance(value, list) else [value]
        if name in COUNTS:
            yield from (each for each in named if isinstance(each, int) and not isinstance(each, bool) and each > 0)
        else:
            yield from counts(value)


def _has_expert_weights(files: ModelFiles) -> bool:
    """Where config.json is silent vLLM takes the number of the model's class."""
    headers = (header for header in files.headers.values() if isinstance(header, Header))
    return any(EXPERT.search(name) for header in headers for name in header.tensors)
