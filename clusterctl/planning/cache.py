"""Where a node keeps compiled code from one start to the next. Pure.

A volume of the engine's, not a directory that is bound into the container: the engine makes it, labels it for SELinux
and removes it, whatever login clusterctl has on the node; it works without root (rootless engines); and only root and
the engine can enter it. In it each image has a directory of its own (agent/inside/cache.py): vLLM, PyTorch and Triton
tell models, options and accelerators apart by hashes of their own, but nobody has tried that across their versions.
"""

from __future__ import annotations

from collections.abc import Mapping

from clusterctl.agent.paths import CACHE_DIR, cache_name
from clusterctl.inventory.model import Inventory
from clusterctl.inventory.rules.container import covers, mount_target

VLLM_DEFAULT = "/root/.cache/vllm"
"""Where vLLM keeps what it compiles unless it is told otherwise (0.32, envs.py: VLLM_CACHE_ROOT)."""
VLLM_VARIABLE = "VLLM_CACHE_ROOT"
IMAGE_DIGITS = 16
"""Of an image's ID, which name its directory: 64 bits."""


def keeps_volume(inventory: Inventory) -> bool:
    """Whether the cluster's containers get clusterctl's own cache volume."""
    return _keeps(inventory) and not _mounted_by_operator(inventory, CACHE_DIR)


def cache_binds(inventory: Inventory) -> tuple[str, ...]:
    """The cache volume, as the engine mounts it."""
    return (f"{cache_name(inventory.cluster)}:{CACHE_DIR}",) if keeps_volume(inventory) else ()


def cache_place(inventory: Inventory, image_id: str) -> Mapping[str, str] | None:
    """For the agent: where compiled code is kept, and the directory of the image; None where clusterctl keeps none."""
    return {"path": CACHE_DIR, "image": image_directory(image_id)} if _keeps(inventory) else None


def cache_source(inventory: Inventory) -> str:
    """What is mounted: the volume's name, or the operator's own directory on the node."""
    own = [v.split(":")[0] for v in inventory.container.volumes if covers(mount_target(v) or ":", CACHE_DIR)]
    return own[-1] if own else cache_name(inventory.cluster)


def image_directory(image_id: str) -> str:
    """The name of an image's directory: the first digits of its ID."""
    return image_id.removeprefix("sha256:")[:IMAGE_DIGITS]


def _keeps(inventory: Inventory) -> bool:
    """What the operator has set up for vLLM's cache wins: a volume over it, or a place of its own."""
    container = inventory.container
    elsewhere = VLLM_VARIABLE in container.env or any(VLLM_VARIABLE in node.env for node in inventory.nodes)
    return container.cache == "on" and not elsewhere and not _mounted_by_operator(inventory, VLLM_DEFAULT)


def _mounted_by_operator(inventory: Inventory, path: str) -> bool:
    targets = (mount_target(volume) for volume in inventory.container.volumes)
    return any(covers(target, path) for target in targets if target is not None)
