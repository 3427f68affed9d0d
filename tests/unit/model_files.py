"""The model's directory for tests: facts from a few words, and real directories with real safetensors files."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clusterctl.facts.gguf import gguf
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
        params=said.get("params"),
        mistral_shards=tuple(said["mistral_index"]) if "mistral_index" in said else None,
        single=said.get("single"),
        snapshots=tuple(said.get("snapshots", ())),
        digests=said.get("digests"),
        headers=headers,
        ggufs={name: gguf(gguf_bytes(**parts)) for name, parts in said.get("ggufs", {}).items()},
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


_KINDS = {
    "u8": 0,
    "i8": 1,
    "u16": 2,
    "i16": 3,
    "u32": 4,
    "i32": 5,
    "f32": 6,
    "bool": 7,
    "u64": 10,
    "i64": 11,
    "f64": 12,
}
_CODES = {"u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "?", "u64": "Q",
          "i64": "q", "f64": "d"}  # fmt: skip
_TENSOR_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "Q4_K": 12, "Q6_K": 14, "BF16": 30}


def gguf_bytes(metadata: Mapping[str, Any], tensors: Mapping[str, Any] | None = None, *, order: str = "<",
               version: int = 3, data: bool = False) -> bytes:  # fmt: skip
    """A GGUF file, written as ggml's docs/gguf.md says. Tensor: name → [type, dimensions, bytes]. Numbers are u32
    unless they are given as [kind, value]; lists of texts are arrays."""

    def text(said: str) -> bytes:
        return struct.pack(order + "Q", len(said.encode())) + said.encode()

    def value(said: Any) -> bytes:
        if isinstance(said, str):
            return struct.pack(order + "I", 8) + text(said)
        if isinstance(said, int):
            return struct.pack(order + "II", 4, said)
        kind, given = said
        if kind == "texts":
            head = struct.pack(order + "IIQ", 9, 8, len(given))
            return head + b"".join(text(each) for each in given)
        if isinstance(given, list):
            packed = b"".join(struct.pack(order + _CODES[kind], each) for each in given)
            return struct.pack(order + "IIQ", 9, _KINDS[kind], len(given)) + packed
        return struct.pack(order + "I" + _CODES[kind], _KINDS[kind], given)

    parts = [b"GGUF", struct.pack(order + "IQQ", version, len(tensors or {}), len(metadata))]
    parts += [text(key) + value(said) for key, said in metadata.items()]
    offset = 0
    for name, (kind, shape, size) in (tensors or {}).items():
        parts.append(
            text(name) + struct.pack(f"{order}I{len(shape)}QIQ", len(shape), *shape, _TENSOR_TYPES[kind], offset)
        )
        offset += -(-size // 32) * 32
    head = b"".join(parts)
    return head + b"\0" * (-len(head) % 32) + b"\1" * (offset if data else 0)


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
