"""The flags of a serving container, as the engine's API has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterctl.hosts.engine import bodies
from clusterctl.inventory.model import Inventory, Ulimit
from clusterctl.modes.place import GpuRequest
from clusterctl.planning.devices import accelerator_flags

LOG_MAX_SIZE = "64m"


LOG_MAX_FILES = "4"
"""At most 256 MiB of log on each node: an unbounded log fills the disk of a server that runs for months (F8)."""


def host_config(inventory: Inventory, *, gpus: GpuRequest | None, infiniband: bool) -> Mapping[str, Any]:
    """The flags of the serving container, with the GPUs that it asks for and with or without RDMA devices."""
    container = inventory.container
    devices = list(container.devices)
    if infiniband and "/dev/infiniband" not in devices:
        devices.append("/dev/infiniband")  # verbs and RDMA CM devices; without them NCCL falls back to TCP (F23)
    body: dict[str, Any] = {
        "network_mode": "host",  # RDMA needs the host's interfaces; Ray and NCCL open many ports
        # NCCL's, vLLM's and Ray's shared memory (F21); private, so that what is killed leaves none of it on the node.
        "ipc_mode": container.ipc,
        "binds": [f"{inventory.model.path}:{inventory.model.path}:ro", *container.volumes],
        "cap_add": list(container.cap_add),  # IPC_LOCK: registered (pinned) RDMA memory (F22)
        "ulimits": [_ulimit(name, limit) for name, limit in container.ulimits.items()],
        "devices": [f"{path}:{path}:rwm" for path in devices],
        "security_opt": ["no-new-privileges"],
        "privileged": container.privileged,
        # A log that can be read back and cannot fill the disk, whatever the engine's default driver is.
        "log_config": {"Type": "json-file", "Config": {"max-size": LOG_MAX_SIZE, "max-file": LOG_MAX_FILES}},
    }
    if container.ipc == "private":
        body["shm_size"] = container.shm_bytes
    flags = dict(accelerator_flags(inventory, gpus))
    body["devices"] += flags.pop("devices", [])
    return {**body, **flags}


def _ulimit(name: str, limit: Ulimit | int) -> bodies.Ulimit:
    soft, hard = (limit.soft, limit.hard) if isinstance(limit, Ulimit) else (limit, limit)
    return bodies.ulimit(name, soft, hard)
