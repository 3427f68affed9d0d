"""An image of the user's own for a lab's nodes: out of this machine's engine, a `docker save` archive, or a directory
with a root file system. It goes into the cache as an engine's data root, as the lab's own image does.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clusterctl.errors import ClusterctlError
from clusterctl.lab import disk
from clusterctl.lab.commands import CommandError, Say, run
from clusterctl.lab.image.build import isolated, keep_image, step
from clusterctl.lab.image.cache import RECIPE, Image
from clusterctl.lab.packages import SYSTEM_PATH
from clusterctl.lab.state import exclusive

LOAD_S = 3600.0
"""For an image to be loaded: 57 s for 9 GB on a fast disk."""


@dataclass(frozen=True)
class OwnImage:
    """What was asked for, found."""

    kind: Literal["engine", "archive", "directory"]
    source: str
    """A reference in this machine's engine, or an absolute path."""
    reference: str
    """What it is called on the nodes."""
    key: str
    """Its place in the cache: another one for other content."""

    def directory(self, root: Path) -> Path:
        """Where it lies in the cache."""
        return root / "images" / self.key


def find(asked: str) -> OwnImage:
    """What `--image` means. Raises ClusterctlError where it is nothing that is there."""
    path = Path(asked).absolute()
    if path.is_dir():
        if not (path / "usr").is_dir():
            raise ClusterctlError(f"{path} is no root file system: it has no usr", hint="give --image a root directory")
        times = [str((path / part).stat().st_mtime_ns) for part in (".", "usr", "opt", "etc") if (path / part).exists()]
        key = _key(str(path), *times)
        return OwnImage("directory", str(path), f"clusterctl-lab-own:{key}", key)
    if path.is_file():
        key = _key(str(path), str(path.stat().st_size), str(path.stat().st_mtime_ns))
        return OwnImage("archive", str(path), f"clusterctl-lab-own:{key}", key)
    try:
        said = json.loads(run(["docker", "image", "inspect", asked], env={"PATH": SYSTEM_PATH}))
    except (CommandError, ValueError) as error:
        raise ClusterctlError(
            f"there is no image {asked!r} in this machine's engine, and no file or directory of that name: {error}",
            hint=f"docker pull {asked}; or give --image the file that `docker save` wrote",
        ) from error
    return OwnImage("engine", asked, asked, _key(str(said[0]["Id"])))


def cached(root: Path, key: str, reference: str) -> Image | None:
    """The image, if it is in the cache."""
    image = Image(reference, root / "images" / key)
    return image if image.directory.is_dir() else None


def ensure(root: Path, own: OwnImage, say: Say) -> Image:
    """The image in the cache, brought there if it is not."""
    images = root / "images"
    with exclusive(images / ".lock", "the lab's images", wait_s=LOAD_S):
        return cached(root, own.key, own.reference) or _bring(images, own, say)


def _bring(images: Path, own: OwnImage, say: Say) -> Image:
    images.mkdir(parents=True, exist_ok=True)
    work = images / f".{own.key}.new"
    disk.remove_tree(work)
    data = work / "docker"
    data.mkdir(parents=True)
    with step(f"bringing the image {own.source} to the lab", say):
        _fill(own, data, work / "dockerd.log")
        keep_image(data)
        (work / "dockerd.log").unlink()
        work.rename(own.directory(images.parent))
    return Image(own.reference, own.directory(images.parent))


def _fill(own: OwnImage, data: Path, log: Path) -> None:
    try:
        if own.kind == "directory":
            isolated(["--net", "sh", str(RECIPE / "import.sh"), own.source, str(data), own.reference, str(log)])
            return
        loading = ["--net", "sh", str(RECIPE / "load.sh"), str(data), own.reference, str(log)]
        if own.kind == "archive":
            with Path(own.source).open("rb") as archive:
                isolated(loading, stdin=archive)
            return
        with _saved(own.source) as saving:
            isolated(loading, stdin=saving.stdout)
    except CommandError as error:
        free = shutil.disk_usage(data).free / 1024**3
        raise ClusterctlError(
            f"{own.source} could not be brought to the lab: {error}",
            hint=f"{data} has {free:.1f} GiB free; an image needs twice its size for a while",
        ) from error


def _saved(reference: str) -> subprocess.Popen[bytes]:
    """`docker save`, whose output is read. It ends with its reader."""
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "docker", "save", reference],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the reader says that the archive is cut off
        env={"PATH": SYSTEM_PATH},
    )


def _key(*parts: str) -> str:
    return f"own-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:12]}"
