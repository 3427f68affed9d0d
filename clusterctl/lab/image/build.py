"""Make the image: a Debian 12 root, a Python environment in it, and `docker import`. Once; then it is cached.

debootstrap -> pip download (here) -> install.sh (in the new root) -> import.sh (a temporary engine) -> rename
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from clusterctl.errors import ClusterctlError
from clusterctl.lab import disk
from clusterctl.lab.commands import CommandError, Say, run
from clusterctl.lab.image import cache, wheels
from clusterctl.lab.image.cache import Image
from clusterctl.lab.state import exclusive

SUITE = "bookworm"
MIRROR_VARIABLE = "CLUSTERCTL_LAB_DEBIAN_MIRROR"
NEEDED_BYTES = 10 * 1024**3
"""Free space at the peak: the wheels, the root file system and the engine's copy of it exist side by side."""
STEP_S = 3600.0
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CLEAN = {"PATH": SYSTEM_PATH, "HOME": "/root", "LANG": "C.UTF-8"}


def ensure(root: Path, say: Say) -> Image:
    """The image of this version of clusterctl, built if it is not in the cache."""
    image = cache.cached(root)
    if image is not None:
        return image
    images = root / "images"
    with exclusive(images / ".lock", "the lab's image", wait_s=STEP_S):
        return cache.cached(root) or _build(images, say)


def purge(root: Path) -> bool:
    """Remove every cached image. False when there was none. Running labs keep theirs: they have hard links."""
    images = root / "images"
    if not images.is_dir():
        return False
    with exclusive(images / ".lock", "the lab's image", wait_s=STEP_S):
        for path in images.iterdir():
            if path.name != ".lock":
                disk.remove_tree(path)
    shutil.rmtree(images, ignore_errors=True)
    return True


def _build(images: Path, say: Say) -> Image:
    _refuse_unfit(images)
    digest = cache.content_hash()
    image = Image(cache.reference(), images / digest)
    work = images / f".{digest}.new"
    system, fetched = work / "root", work / "wheels"
    disk.remove_tree(system)  # of a build that was cut off; fetched wheels are kept, they are the slow part
    disk.remove_tree(work / "out")
    say(f"building {image.reference}, once: 5 to 10 minutes and {NEEDED_BYTES >> 30} GiB of disk for a while")
    with step("Debian root (debootstrap)", say):
        _debootstrap(system)
    with step("Python packages (pip download)", say):
        wheels.download(cache.RECIPE / "requirements.lock", fetched)
    with step("installing them, making the tiny models", say):
        _install(system, fetched)
    out = work / "out"
    out.mkdir()
    shutil.move(system / "build/models", out / "models")
    disk.remove_tree(system / "build")
    with step("docker import", say):
        _import(system, out / "docker", image.reference, work / "dockerd.log")
    out.rename(image.directory)
    disk.remove_tree(work)
    return image


def debian_mirror() -> str:
    """The Debian mirror that this machine's apt uses: whoever configured it knows what can be reached from here."""
    if mirror := os.environ.get(MIRROR_VARIABLE):
        return mirror
    listing = run(["apt-get", "indextargets", "--format", "$(SITE) $(ORIGIN) $(LABEL)", "Created-By: Packages"])
    for line in listing.splitlines():
        site, _, origin = line.partition(" ")
        if origin == "Debian Debian":  # the archive itself, not security updates (Debian-Security)
            return site
    raise ClusterctlError(
        "apt on this machine has no Debian archive to make the lab's image from",
        hint=f"set {MIRROR_VARIABLE} to the URL of a Debian mirror (after `apt-get update`, if this is Debian)",
    )


def _refuse_unfit(images: Path) -> None:
    if platform.machine() != "x86_64":
        raise ClusterctlError(
            f"the lab's image is for x86-64; this machine is {platform.machine()}", hint="use --ssh-only"
        )
    images.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(images).free
    if free < NEEDED_BYTES:
        raise ClusterctlError(
            f"{images} has {free / 1024**3:.1f} GiB free; the image takes {NEEDED_BYTES >> 30} GiB while it is built",
            hint="free some, or put the lab elsewhere with CLUSTERCTL_LAB_ROOT",
        )


def _debootstrap(system: Path) -> None:
    lines = (cache.RECIPE / "debian-packages.txt").read_text().splitlines()
    packages = ",".join(line for line in lines if line and not line.startswith("#"))
    argv = ["debootstrap", "--variant=minbase", f"--include={packages}", SUITE, str(system), debian_mirror()]
    try:
        isolated(argv, {**os.environ, "PATH": SYSTEM_PATH})  # with this machine's proxy settings
    except CommandError as error:
        log = system / "debootstrap/debootstrap.log"
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:]) if log.exists() else ""
        raise ClusterctlError(
            f"{error.message}\n{tail}", hint=f"check that the mirror has {SUITE}, or set {MIRROR_VARIABLE}"
        ) from error


def _install(system: Path, fetched: Path) -> None:
    """Run install.sh in the new root, in namespaces of its own: its /proc and its processes end with it."""
    target = system / "build"
    disk.remove_tree(target)
    target.mkdir()
    for name in ("install.sh", "make_model.py", "requirements.lock"):
        shutil.copy(cache.RECIPE / name, target / name)
    for name in ("plugin", "shim"):
        shutil.copytree(cache.RECIPE / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(["cp", "-al", str(fetched), str(target / "wheels")], tied=True)
    isolated([f"--root={system}", "--wd=/", "sh", "/build/install.sh"])


def _import(system: Path, data: Path, reference: str, log: Path) -> None:
    data.mkdir()
    isolated(["--net", "sh", str(cache.RECIPE / "import.sh"), str(system), str(data), reference, str(log)])
    keep_image(data)


def keep_image(data: Path) -> None:
    """Remove from an engine's data root everything but its images."""
    for path in data.iterdir():
        if path.name not in ("image", "overlay2"):
            disk.remove_tree(path)


def isolated(arguments: list[str], env: Mapping[str, str] = _CLEAN, *, stdin: IO[bytes] | None = None) -> None:
    """Run a step in namespaces of its own: no orphaned engine and no mount is left, whatever happens to it or to us."""
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]
    run([*argv, *arguments], timeout_s=STEP_S, env=env, tied=True, stdin="" if stdin is None else stdin)


@contextmanager
def step(title: str, say: Say) -> Iterator[None]:
    """Say what is done, and how long it took."""
    started = time.monotonic()
    say(f"{title} …")
    yield
    say(f"{title}: done in {time.monotonic() - started:.0f} s")
