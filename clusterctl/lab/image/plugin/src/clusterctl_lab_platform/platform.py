"""A CPU platform whose slots Ray schedules as GPUs."""

from __future__ import annotations

from vllm.platforms.cpu import CpuPlatform


class LabPlatform(CpuPlatform):
    """The CPU build of vLLM, with slots counted as Ray counts GPUs in production (`ray start --num-gpus`)."""

    ray_device_key: str = "GPU"

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        """Name the communicator that knows that two nodes do not share /dev/shm."""
        return "clusterctl_lab_platform.communicator.LabCommunicator"
