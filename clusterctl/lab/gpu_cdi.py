"""The CDI specification of a lab node: its own GPUs out of those of the machine. Pure.

Made from what `nvidia-ctk cdi generate` says of the machine where that is installed, else written by hand: the devices,
the driver's files, and where libraries are found (the toolkit has a hook for that, which runs ldconfig).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterctl.lab.state import HostGpu

KIND = "nvidia.com/gpu"
VERSION = "0.5.0"
"""Of the format: what Docker 25 reads, with everything that is needed."""
IN_CONTAINER = Path("/usr/local/nvidia/lib64")
"""Where NVIDIA's own images look for the driver's libraries, too."""
CUDA = Path("/usr/local/cuda/lib64")
"""Where images that are made from NVIDIA's have CUDA: their own LD_LIBRARY_PATH says so, and is replaced."""
SEEN_BY_NODES = ("/usr/", "/lib/", "/lib64/", "/bin/", "/sbin/")
"""What a node has of the machine."""


@dataclass(frozen=True)
class Edits:
    """What a container needs of the driver."""

    mounts: tuple[tuple[Path, Path], ...]
    """Files or directories: where they are on the node, and in the container."""
    libraries: Path
    """Where the libraries are in the container."""


def specification(gpus: Sequence[HostGpu], devices: Iterable[str], edits: Edits, generated: object) -> dict[str, Any]:
    """A node's specification. Each of its GPUs has two names, its index on the machine (nvidia-smi on the node lists it
    by that) and its UUID; `all` is all of the node's. `devices`: the driver's devices in the node's /dev."""
    wanted = {f"/dev/{name}" for name in devices}
    own = {f"/dev/nvidia{gpu.minor}" for gpu in gpus}
    common = _adapted(generated, wanted - own) or _by_hand(edits, sorted(wanted - own))
    named = {str(gpu.index): [gpu] for gpu in gpus} | {gpu.uuid: [gpu] for gpu in gpus} | {"all": list(gpus)}
    return {
        "cdiVersion": VERSION,
        "kind": KIND,
        "containerEdits": common,
        "devices": [
            {"name": name, "containerEdits": {"deviceNodes": [{"path": f"/dev/nvidia{gpu.minor}"} for gpu in each]}}
            for name, each in named.items()
        ],
    }


def _by_hand(edits: Edits, devices: Iterable[str]) -> dict[str, Any]:
    return {
        "env": [f"LD_LIBRARY_PATH={edits.libraries}:{CUDA}", "NVIDIA_VISIBLE_DEVICES=void"],
        "deviceNodes": [{"path": path} for path in devices],
        "mounts": [
            {"hostPath": str(there), "containerPath": str(here), "options": ["ro", "nosuid", "nodev", "rbind"]}
            for there, here in edits.mounts
        ],
    }


def _adapted(generated: object, devices: set[str]) -> dict[str, Any] | None:
    """What the toolkit found for every container, without what a node does not have: an engine starts no container
    whose device or mount is not there. None where it is not what the toolkit writes."""
    edits = generated.get("containerEdits") if isinstance(generated, Mapping) else None
    if not isinstance(edits, Mapping) or not edits.get("mounts"):
        return None
    mounts = [each for each in edits["mounts"] if str(each.get("hostPath")).startswith(SEEN_BY_NODES)]
    kept = {key: edits[key] for key in ("env", "hooks") if edits.get(key)}
    return {**kept, "mounts": mounts, "deviceNodes": [{"path": path} for path in sorted(devices)]}
