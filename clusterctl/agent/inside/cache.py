"""Compiled code that outlives the container: where the server's processes keep it, and how large it may get.

agent.json's "cache" is {"path": a directory that is mounted, "image": the name of this image's directory in it}, or
null. Everything below is written and read by root in the container only (0700): code is executed from it. CUDA graphs
cannot be kept by anybody: they hold addresses of one process, which captures them anew at each start.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

from .journal import Journal

VARIABLES: Mapping[str, tuple[str, str | None]] = {
    "VLLM_CACHE_ROOT": ("vllm", "~/.cache/vllm"),
    "TORCHINDUCTOR_CACHE_DIR": ("inductor", None),
    "TRITON_CACHE_DIR": ("triton", "~/.triton/cache"),
    "FLASHINFER_WORKSPACE_BASE": ("flashinfer", "~/.cache/flashinfer"),
    "TVM_FFI_CACHE_DIR": ("tvm-ffi", "~/.cache/tvm-ffi"),
    "CUDA_CACHE_PATH": ("cuda", "~/.nv/ComputeCache"),
}
"""Variable -> directory, and where it is without the variable (None: below /tmp). vLLM 0.32 sets PyTorch's itself,
below its own, for what it compiles; what is compiled beside that has the others: Triton's kernels, FlashInfer's, TVM's,
the driver's (from PTX). What an image brings along in the usual place stays in use: FlashInfer's kernels, for one."""
BYTECODE = "PYTHONPYCACHEPREFIX"
LARGE_MODULES = ("vllm", "torch")
"""Imported at each start, some thousand files: seconds, where the image has no bytecode of them."""
IMAGE = re.compile(r"[0-9a-f]{16}")
"""Names of directories that are ours to remove: an operator's own volume may hold other things."""
MEASURE_S = 60.0
"""Seconds between two looks at the size: some thousand files, 0.1 s."""


class Cache:
    """The directory of this container's image, and the others beside it."""

    def __init__(self, journal: Journal, place: Mapping[str, str] | None) -> None:
        self.journal = journal
        self.root = Path(place["path"]) if place else None
        self.image = place["image"] if place else ""

    def prepare(self, environment: MutableMapping[str, str], max_bytes: int) -> None:
        """Make the image's directory and room for it, and point the server's processes to it. Before any is started.

        A directory that cannot be written is said in the state, and nothing is kept: a server without it is slower to
        start, and no worse.
        """
        if self.root is None:
            return
        own = self.root / self.image
        try:
            self.root.chmod(0o700)
            own.mkdir(mode=0o700, exist_ok=True)
            make_room(self.root, self.image, max_bytes)
            own.mkdir(mode=0o700, exist_ok=True)
            os.utime(own)  # used now: what was used last goes last
            with tempfile.NamedTemporaryFile(dir=own) as file:
                file.write(b"\0" * 4096)
        except OSError as error:
            self.journal.state["cache"] = {"path": str(own), "bytes": None, "problem": str(error)}
            self.journal.event("cache-unusable", detail=str(error))
            # vLLM gives the head's value to workers that have none (vllm-ray-facts): here it may be of no use.
            environment.setdefault("VLLM_CACHE_ROOT", str(Path("~/.cache/vllm").expanduser()))
            return
        for variable, (directory, usual) in VARIABLES.items():
            if usual is None or not has_entries(Path(usual).expanduser()):
                environment.setdefault(variable, str(own / directory))
        if BYTECODE not in environment and any(lacks_bytecode(module) for module in LARGE_MODULES):
            environment[BYTECODE] = str(own / "bytecode")
            environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.measure()

    async def keep(self) -> None:
        """Keep the size in the state, for as long as the agent lives."""
        while self.root is not None and not self.journal.state["cache"].get("problem"):
            await asyncio.sleep(MEASURE_S)
            if await asyncio.to_thread(self.measure):
                self.journal.save()

    def measure(self) -> bool:
        """Put the size, of all images, into the state. Whether it is another one than before."""
        assert self.root is not None  # noqa: S101 (only called where there is one)
        found = {"path": str(self.root / self.image), "bytes": sum(sizes(self.root).values()), "problem": None}
        changed = self.journal.state.get("cache") != found
        self.journal.state["cache"] = found
        return changed


def make_room(root: Path, own: str, max_bytes: int) -> None:
    """Remove what belongs to the images that were not used for longest until the rest is no larger than `max_bytes`.

    Even this image's own goes, at last, and is compiled once more: it has grown with models and options that may be
    long gone, and nothing else tells which.
    """
    found = sizes(root)
    oldest = sorted((name for name in found if name != own), key=lambda name: (root / name).stat().st_mtime)
    for name in [*oldest, own]:
        if sum(found.values()) <= max_bytes:
            return
        shutil.rmtree(root / name, ignore_errors=True)
        found.pop(name, None)


def sizes(root: Path) -> dict[str, int]:
    """Name of an image's directory -> bytes that it takes on the disk. Files may come and go meanwhile."""
    names = [each.name for each in root.iterdir() if IMAGE.fullmatch(each.name) and each.is_dir()]
    return {name: sum(_bytes_below(root / name)) for name in names}


def _bytes_below(directory: Path) -> Iterator[int]:
    for folder, _, files in os.walk(directory):
        for file in files:
            with contextlib.suppress(OSError):
                yield os.lstat(os.path.join(folder, file)).st_blocks * 512  # noqa: PTH118 (many: as strings)


def has_entries(directory: Path) -> bool:
    """Whether there is anything in a directory."""
    with contextlib.suppress(OSError):
        return any(directory.iterdir())
    return False


def lacks_bytecode(module: str) -> bool:
    """Whether Python would compile this module of the image's at each start."""
    with contextlib.suppress(ImportError, ValueError, NotImplementedError):
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            return not Path(importlib.util.cache_from_source(spec.origin)).exists()
    return False
