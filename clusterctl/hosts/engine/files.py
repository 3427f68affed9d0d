"""Files for a container, as the archive that the engine's API takes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence

from clusterctl.hosts.engine.engine import FileInContainer


def tar_of(files: Sequence[FileInContainer]) -> bytes:
    """An archive of these files and the directories above them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for directory in sorted({parent for file in files for parent in _parents(file.path)}):
            entry = tarfile.TarInfo(directory.lstrip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for file in files:
            entry = tarfile.TarInfo(file.path.lstrip("/"))
            entry.size, entry.mode = len(file.content), file.mode
            tar.addfile(entry, io.BytesIO(file.content))
    return buffer.getvalue()


def _parents(path: str) -> list[str]:
    """Directories to make for a file below /etc/clusterctl or /opt/clusterctl; never the standard ones above."""
    parts = path.strip("/").split("/")[:-1]
    return ["/" + "/".join(parts[: index + 1]) for index in range(1, len(parts))]
