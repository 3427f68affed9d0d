"""The model's directory for tests: facts from a few words, and real directories with real safetensors files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clusterctl.facts.model_files import ModelFiles
from clusterctl.facts.safetensors import Header, header

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
CONFIG = {"model_type": "llama", "num_attention_heads": 32}
SIZES = {"config.json": 700, "tokenizer.json": 5000, **dict.fromkeys(SHARDS, 1000)}


def model_files(said: Mapping[str, Any], config: Any, index: Any) -> ModelFiles:
    """Facts of a good directory, except for what is said. `tensors`: shard → tensor → [dtype, shape, end]."""
    headers = {name: header(header_json(tensors)) for name, tensors in said.get("tensors", {}).items()}
    whole = {name: found.file_bytes for name, found in headers.items() if isinstance(found, Header)}
    sizes = {**SIZES, **whole, **said.get("sizes", {})}
    return ModelFiles(
        sizes={name: size for name, size in sizes.items() if size is not None},
        config=config,
        index_shards=index,
        directory=said.get("directory"),
        links=said.get("links", {}),
        dangling=tuple(said.get("dangling", ())),
        pointers=tuple(said.get("pointers", ())),
        unfinished=tuple(said.get("unfinished", ())),
        snapshots=tuple(said.get("snapshots", ())),
        digests=said.get("digests"),
        headers=headers,
        unread=tuple(said.get("unread", ())),
    )


def header_json(tensors: Mapping[str, Any]) -> bytes:
    """A header with these tensors: name → [dtype, shape, end of the data]; each begins where the one before ended."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, (dtype, shape, end) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    return json.dumps(entries).encode()


def safetensors(tensors: Mapping[str, Any], fill: bytes = b"\1") -> bytes:
    """A whole file."""
    head = header_json(tensors)
    data = max((end for _, _, end in tensors.values()), default=0)
    return len(head).to_bytes(8, "little") + head + fill * data


def make_model(directory: Path) -> Path:
    """A directory with two shards, an index, a configuration and a tokenizer."""
    directory.mkdir(parents=True)
    for number, shard in enumerate(SHARDS):
        (directory / shard).write_bytes(safetensors({f"model.layers.{number}.w": ["BF16", [16, 16], 512]}))
    index = {"metadata": {}, "weight_map": {f"model.layers.{n}.w": shard for n, shard in enumerate(SHARDS)}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    (directory / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (directory / "tokenizer.json").write_text("{}", encoding="utf-8")
    (directory / "README.md").write_text(directory.name, encoding="utf-8")
    return directory
