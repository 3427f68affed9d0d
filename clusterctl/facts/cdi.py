"""CDI specifications on a node: the files that tell an engine which devices it can give to containers. Pure.

Container Device Interface, https://github.com/cncf-tags/container-device-interface: JSON or YAML in /etc/cdi and
/var/run/cdi, each of one kind (`nvidia.com/gpu`) with named devices.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from clusterctl.facts import parse
from clusterctl.facts.fact import Unknown

NVIDIA_GPU = "nvidia.com/gpu"
AMD_GPU = "amd.com/gpu"
"""Of AMD's container toolkit (`amd-ctk cdi generate`, /etc/cdi/amd.json)."""

_FILE = re.compile(r"^@@cdi ([^\n]+)(?:\n|\Z)", re.MULTILINE)
_DRIVER = re.compile(r"libcuda\.so\.(\d+\.\d+(?:\.\d+)?)")

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML has it: a specification of eight GPUs has thousands of lines."""


@dataclass(frozen=True)
class CdiSpec:
    """One file."""

    path: str
    kind: str
    """What it gives, as `nvidia.com/gpu`; empty where it could not be read."""
    devices: tuple[str, ...] = ()
    """Their names, without the kind."""
    driver: str | None = None
    """Version of NVIDIA's driver whose libraries it mounts, where it names them."""
    problem: str | None = None
    """Why it could not be read."""


def cdi_specs(found: Mapping[str, parse.Section]) -> tuple[CdiSpec, ...] | Unknown:
    """Every specification on the node, in the order of the files; none where there is no directory for them."""
    output = parse.text(found, "cdi")
    if isinstance(output, Unknown):
        return output
    return tuple(_specs(output)) if output else ()


def _specs(output: str) -> Iterator[CdiSpec]:
    _, *parts = _FILE.split(output)
    for path, text in zip(parts[::2], parts[1::2], strict=True):
        yield _spec(path, text)


def _spec(path: str, text: str) -> CdiSpec:
    try:
        # JSON is YAML, but Python's own reader is fifty times as fast.
        values = json.loads(text) if path.endswith(".json") else yaml.load(text, _LOADER)  # noqa: S506 (safe loaders)
    except (ValueError, yaml.YAMLError, RecursionError):
        return CdiSpec(path, "", problem=f"it is no CDI specification: {text.strip()[:120] or 'it is empty'}")
    kind = values.get("kind") if isinstance(values, dict) else None
    if not isinstance(values, dict) or not isinstance(kind, str):
        return CdiSpec(path, "", problem=f"it is no CDI specification: {text.strip()[:120] or 'it is empty'}")
    driver = _DRIVER.search(text)
    return CdiSpec(path, kind, tuple(_names(values.get("devices"))), driver[1] if driver else None)


def _names(devices: Any) -> Iterator[str]:
    for device in devices if isinstance(devices, list) else ():
        if isinstance(device, dict) and isinstance(device.get("name"), str | int):
            yield str(device["name"])
