"""What nodes hold that could be served, asked before anybody has said what shall be: images with vLLM, and models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clusterctl.errors import ClusterctlError
from clusterctl.facts.fact import Unknown
from clusterctl.hosts.engine.engine import EngineError, LocalImage
from clusterctl.hosts.host import Host, Hosts

SCRIPT = Path(__file__).with_name("scripts").joinpath("model_directories.sh").read_bytes()

SEARCH_S = 5
"""Seconds for the search in one place."""
TIMEOUT_S = 45
"""For the whole script: what it finds on healthy disks takes well below a second."""

ModelKind = Literal["config", "params", "gguf"]

_LINE = re.compile(r"^(config|params|gguf)\t(\d{1,18})\t(/[^\n]*)$", re.MULTILINE)
_VLLM = re.compile(r"vllm", re.IGNORECASE)


@dataclass(frozen=True)
class FoundImage:
    """An image with vLLM in it, by its own words."""

    name: str
    layers: tuple[str, ...]
    created_at: str


@dataclass(frozen=True)
class FoundModel:
    """A directory with weights: of Hugging Face's form (config.json), Mistral's (params.json), or GGUF files."""

    path: str
    kind: ModelKind
    size_bytes: int


@dataclass(frozen=True)
class Survey:
    """What one node holds."""

    images: tuple[FoundImage, ...] | Unknown
    models: tuple[FoundModel, ...] | Unknown


def survey(hosts: Hosts) -> dict[str, Survey]:
    """Every connected node. Reads only; what could not be asked is Unknown, with the reason."""
    asked = hosts.each(lambda host: (_images(host), _models(host))).values
    images = with_vllm({name: said for name, (said, _) in asked.items()})
    return {name: Survey(images[name], models) for name, (_, models) in asked.items()}


def _images(host: Host) -> tuple[LocalImage, ...] | Unknown:
    try:
        return host.engine.local_images()
    except EngineError as error:
        return Unknown(error.message)


def with_vllm(by_node: Mapping[str, tuple[LocalImage, ...] | Unknown]) -> dict[str, tuple[FoundImage, ...] | Unknown]:
    """Those whose name, entry point, environment or labels speak of vLLM, and what other nodes have by such a name.

    (That is not the same image, or it would speak of vLLM as well, and it must not pass for none.)
    """
    every = [each for images in by_node.values() if isinstance(images, tuple) for each in images]
    names = {each.name for each in every if _VLLM.search(each.name) or _VLLM.search(each.described)}
    return {
        node: images
        if isinstance(images, Unknown)
        else tuple(FoundImage(each.name, each.image.layers, each.created_at) for each in images if each.name in names)
        for node, images in by_node.items()
    }


def _models(host: Host) -> tuple[FoundModel, ...] | Unknown:
    try:
        done = host.connection.run(["sh", "-s", "--", str(SEARCH_S)], stdin=SCRIPT, timeout_s=TIMEOUT_S, read_only=True)
    except ClusterctlError as error:
        return Unknown(error.message)
    return found_models(done.stdout.decode(errors="replace"))


def found_models(output: str) -> tuple[FoundModel, ...]:
    """From the script's lines."""
    kinds: dict[str, ModelKind] = {"config": "config", "params": "params", "gguf": "gguf"}
    return tuple(FoundModel(path, kinds[kind], int(size)) for kind, size, path in _LINE.findall(output))
