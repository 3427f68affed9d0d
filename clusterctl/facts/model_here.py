"""A model's directory on this machine: what a layout needs of it, config.json, the index and the shards' headers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clusterctl.facts.fact import Fact, Unknown
from clusterctl.facts.model_files import ModelFiles, header_length
from clusterctl.facts.safetensors import Header, header

INDEX = "model.safetensors.index.json"


def model_here(directory: Path) -> ModelFiles:
    """Reads only. Raises OSError when the directory cannot be read."""
    files = [path for path in sorted(directory.iterdir()) if path.is_file()]
    sizes = {path.name: path.stat().st_size for path in files}
    shards = [path for path in files if path.suffix == ".safetensors"]
    index = _json(directory / INDEX)
    named: Fact[tuple[str, ...]] = None
    if isinstance(index, Mapping) and isinstance(index.get("weight_map"), Mapping):
        named = tuple(sorted({str(name) for name in index["weight_map"].values()}))
    config = _json(directory / "config.json")
    return ModelFiles(sizes, config, named, headers={path.name: _header(path) for path in shards})


def _json(path: Path) -> Fact[Mapping[str, Any]]:
    if not path.exists():
        return None
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        return Unknown(f"{path.name}: {error}")
    return said if isinstance(said, Mapping) else Unknown(f"{path.name} holds no object")


def _header(path: Path) -> Header | Unknown:
    try:
        with path.open("rb") as file:
            length = header_length(file.read(8), path.stat().st_size)
            return header(file.read(length)) if isinstance(length, int) else Unknown(f"{path.name} {length}")
    except OSError as error:
        return Unknown(f"{path.name}: {error.strerror}")
