"""The image cache: one directory for each recipe, complete or absent."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

RECIPE = Path(__file__).resolve().parent
INGREDIENTS = ("debian-packages.txt", "import.sh", "install.sh", "make_model.py", "plugin", "requirements.lock", "shim")
"""Everything that decides what is in the image. A change in any of these files is another image."""
REPOSITORY = "clusterctl-lab"


@dataclass(frozen=True)
class Image:
    """A complete image in the cache."""

    reference: str
    directory: Path

    @property
    def data(self) -> Path:
        """An engine's data root that holds the image (`overlay2/` and `image/`)."""
        return self.directory / "docker"

    @property
    def podman_storage(self) -> Path:
        """Podman's storage that holds the image, made when a lab asks for it."""
        return self.directory / "podman"

    @property
    def models(self) -> Path:
        """The tiny models, each in a directory of its name."""
        return self.directory / "models"


def content_hash(recipe: Path = RECIPE) -> str:
    """Hash of everything that goes into the image."""
    digest = hashlib.sha256()
    for file in _files(recipe):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(recipe).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:12]


def reference() -> str:
    """The image's name and tag."""
    return f"{REPOSITORY}:{content_hash()}"


def cached(root: Path) -> Image | None:
    """The image of this version of clusterctl, if it was built under this state root."""
    image = Image(reference(), root / "images" / content_hash())
    return image if image.directory.is_dir() else None


def _files(recipe: Path) -> list[Path]:
    found = []
    for name in INGREDIENTS:
        path = recipe / name
        found += [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sorted(file for file in found if "__pycache__" not in file.parts and ".egg-info" not in str(file))
