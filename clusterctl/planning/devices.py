"""How a container asks for its accelerators, as the engine's API has it. The probe's containers ask the same way."""

from __future__ import annotations

from collections.abc import Sequence

from clusterctl.facts.cdi import NVIDIA_GPU
from clusterctl.hosts.engine import bodies
from clusterctl.modes.place import GpuRequest

AMD_DEVICES = ("/dev/kfd", "/dev/dri")
AMD_GROUPS = ("video", "render")
"""ROCm's own instructions for containers: the compute and render devices, and the groups that own them."""


def device_requests(gpus: GpuRequest) -> Sequence[bodies.DeviceRequest]:
    """What the engine is to add to the container."""
    if gpus.way == "cdi":
        return [bodies.cdi_request([f"{NVIDIA_GPU}={name}" for name in gpus.names])]
    return [bodies.gpus_request(gpus.names) if gpus.names else bodies.gpu_request(gpus.count)]
