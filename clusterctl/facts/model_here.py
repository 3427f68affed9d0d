"""A model on this machine: what a layout needs of it, its configuration, its index and the headers of its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clusterctl.facts.fact import Fact, Unknown
from clusterctl.facts.gguf import Gguf, gguf
from clusterctl.facts.model_files import ModelFiles, header_length
from clusterctl.facts.model_formats import BIN_INDEX, HF_CONFIG, HF_INDEX, MISTRAL_CONFIG, MISTRAL_INDEX
from clusterctl.facts.safetensors import Header, header


def model_here(path: Path) -> ModelFiles:
    """The model in a directory, or in one file. Reads only. Raises OSError when the path cannot be read."""
    one = path.name if path.suffix == ".gguf" and path.is_file() else None
    directory = path.parent if one else path
    entries = [path] if one else sorted(directory.iterdir())
    files = [each for each in entries if each.is_file()]
    return ModelFiles(
        sizes={each.name: each.stat().st_size for each in files},
        config=None if one else _json(directory / HF_CONFIG),
        index_shards=None if one else _named(directory / HF_INDEX),
        params=None if one else _json(directory / MISTRAL_CONFIG),
        mistral_shards=None if one else _named(directory / MISTRAL_INDEX),
        bin_shards=None if one else _named(directory / BIN_INDEX),
        single=one,
        directory=str(directory.resolve()),
        dangling=tuple(each.name for each in entries if each.is_symlink() and not each.exists()),
        snapshots=() if one else _snapshots(directory),
        headers={each.name: _header(each) for each in files if each.suffix == ".safetensors"},
        ggufs={each.name: _gguf(each) for each in files if each.suffix == ".gguf"},
    )


def _snapshots(directory: Path) -> tuple[str, ...]:
    """Revisions in a Hugging Face cache's folder of a model."""
    place = directory / "snapshots"
    return tuple(sorted(each.name for each in place.iterdir())) if place.is_dir() else ()


def _named(index: Path) -> Fact[tuple[str, ...]]:
    """Files that an index names."""
    said = _json(index)
    if not isinstance(said, Mapping):
        return said
    weights = said.get("weight_map")
    if not isinstance(weights, Mapping) or not weights:
        return Unknown(f"{index.name} names no files")
    return tuple(sorted({str(name) for name in weights.values()}))


def _json(path: Path) -> Fact[Mapping[str, Any]]:
    if not path.exists():
        return None
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        return Unknown(f"{path.name}: {error}")
    return said if isinstance(said, Mapping) else Unknown(f"{path.name} holds no object")


def _header(path: Path) -> Header | Unknown:
    try:
        with path.open("rb") as file:
            length = header_length(file.read(8), path.stat().st_size)
            return header(file.read(length)) if isinstance(length, int) else Unknown(f"{path.name} {length}")
    except OSError as error:
        return Unknown(f"{path.name}: {error.strerror}")


def _gguf(path: Path) -> Gguf | Unknown:
    try:
        with path.open("rb") as file:
            return gguf(file)
    except OSError as error:
        return Unknown(f"{path.name}: {error.strerror}")
