"""What nodes with Podman need: a root file system of a newer Debian, whose Podman is worth a rehearsal, and the lab's
image in Podman's own storage. Each is made once and then cached.

Debian 12's Podman (4.3) is older than what people use, and Debian 13's needs a newer C library than the machine may
have: so these nodes bring their programs with them, instead of taking the machine's.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from clusterctl.errors import ClusterctlError
from clusterctl.lab import disk
from clusterctl.lab.commands import CommandError, Say
from clusterctl.lab.image.build import MIRROR_VARIABLE, STEP_S, debian_mirror, isolated, step
from clusterctl.lab.image.cache import RECIPE, Image
from clusterctl.lab.packages import SYSTEM_PATH
from clusterctl.lab.state import exclusive

SUITE = "trixie"
PACKAGES = (
    *("podman", "runc", "openssh-server", "iproute2", "procps", "nftables", "kmod", "uidmap", "passt"),
    *("hostname", "python3-minimal"),
)
"""Beside a minimal system: the engine, sshd, and what the node's first process, probes and tests run."""


def ensure(root: Path, image: Image, say: Say) -> Path:
    """The nodes' root file system, and the image in Podman's storage; both made if they are not in the cache."""
    images = root / "images"
    with exclusive(images / ".lock", "the lab's images", wait_s=STEP_S):
        system = _system(images, say)
        if not image.podman_storage.is_dir():
            _store(image, system, say)
    return system


def _system(images: Path, say: Say) -> Path:
    name = f"{SUITE}-{hashlib.sha256(chr(0).join(PACKAGES).encode()).hexdigest()[:12]}"
    final = images / name
    if final.is_dir():
        return final
    images.mkdir(parents=True, exist_ok=True)
    work = images / f".{name}.new"
    disk.remove_tree(work)
    argv = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(work), debian_mirror()]
    with step(f"a root of Debian {SUITE} with Podman (debootstrap), once", say):
        try:
            isolated(argv, {**os.environ, "PATH": SYSTEM_PATH})  # with this machine's proxy settings
        except CommandError as error:
            hint = f"check that the mirror has {SUITE}, or set {MIRROR_VARIABLE}"
            raise ClusterctlError(error.message, hint=hint) from error
        disk.remove_tree(work / "var/cache/apt")
        work.rename(final)
    return final


def _store(image: Image, system: Path, say: Say) -> None:
    layers = [path / "diff" for path in (image.data / "overlay2").iterdir() if path.name != "l"]
    if len(layers) != 1:
        raise ClusterctlError(f"{image.reference} has {len(layers)} layers: Podman's nodes take an image of one")
    work = image.podman_storage.with_name(".podman.new")
    disk.remove_tree(work)
    work.mkdir()
    with step("podman import", say):
        isolated(["--net", "sh", str(RECIPE / "podman.sh"), str(system), str(layers[0]), str(work), image.reference])
        for path in work.iterdir():
            if not path.name.startswith("overlay"):  # the engine's own records say where the storage was
                disk.remove_tree(path)
        work.rename(image.podman_storage)
