"""How a container asks for its accelerators, as the engine's API has it. The probe's containers ask the same way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterctl.facts.cdi import AMD_GPU, NVIDIA_GPU
from clusterctl.hosts.engine import bodies
from clusterctl.inventory.model import Inventory
from clusterctl.modes.place import GpuRequest

AMD_COMPUTE, AMD_RENDER = "/dev/kfd", "/dev/dri"
AMD_GROUPS = ("video", "render")
"""ROCm's own instructions for containers: the compute and render devices, and the groups that own them."""


def accelerator_flags(inventory: Inventory, gpus: GpuRequest | None) -> Mapping[str, Any]:
    """What a container's flags have for its GPUs: `device_requests`, or `devices` and the groups that own them."""
    if gpus is None:
        return {}
    if gpus.way == "files":
        paths = (AMD_COMPUTE, *(gpus.names or (AMD_RENDER,)))
        return {"devices": [f"{path}:{path}:rwm" for path in paths], "group_add": list(AMD_GROUPS)}
    if gpus.way == "cdi":
        kind = AMD_GPU if inventory.accelerator.kind == "amd" else NVIDIA_GPU
        return {"device_requests": [bodies.cdi_request([f"{kind}={name}" for name in gpus.names])]}
    return {"device_requests": [bodies.gpus_request(gpus.names) if gpus.names else bodies.gpu_request(gpus.count)]}
