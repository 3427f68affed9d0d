"""Parts of a container's flags as the engine's API takes them. Only values, and no SDK.

They are dictionaries because they are hashed and recorded in a container as they are: another form of the same flags
would be another container, and a cluster that runs would be replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict


class Ulimit(TypedDict):
    """A limit of the container's processes (`--ulimit`)."""

    Name: str
    Soft: int
    Hard: int


class DeviceRequest(TypedDict):
    """Devices that a driver of the engine adds (`--gpus`)."""

    Driver: str
    Count: int
    DeviceIDs: Sequence[str]
    Capabilities: Sequence[Sequence[str]]
    Options: dict[str, str]


class Mount(TypedDict):
    """A bind mount whose source must exist (`--mount`)."""

    Target: str
    Source: str
    Type: str
    ReadOnly: bool


def ulimit(name: str, soft: int, hard: int) -> Ulimit:
    """A limit by its name in setrlimit(2), without RLIMIT_."""
    return {"Name": name, "Soft": soft, "Hard": hard}


def gpu_request(count: int) -> DeviceRequest:
    """So many GPUs, whichever they are: what `--gpus COUNT` is in the API."""
    return {"Driver": "", "Count": count, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}


def gpus_request(names: Sequence[str]) -> DeviceRequest:
    """Certain GPUs, by index or UUID: what `--gpus '"device=0,1"'` is in the API."""
    return {"Driver": "", "Count": 0, "DeviceIDs": list(names), "Capabilities": [["gpu"]], "Options": {}}


def cdi_request(names: Sequence[str]) -> DeviceRequest:
    """Devices by their names in CDI specifications, as `nvidia.com/gpu=0`: what `--device NAME` is in the API."""
    return {"Driver": "cdi", "Count": 0, "DeviceIDs": list(names), "Capabilities": [], "Options": {}}


def bind_mount(source: str, target: str, *, read_only: bool) -> Mount:
    """A file or directory of the node in the container."""
    return {"Target": target, "Source": source, "Type": "bind", "ReadOnly": read_only}
