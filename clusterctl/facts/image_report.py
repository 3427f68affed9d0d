"""What the image says about itself when it runs on a node. Values, and the pure reading of agent/report.py's answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clusterctl.facts.fact import Fact, Unknown

# For types only: completion of codes loads the rules, which read reports, and should not load the doors' libraries.
if TYPE_CHECKING:
    from clusterctl.hosts.engine.engine import Output

MEMLOCK_UNLIMITED = -1
"""RLIM_INFINITY as Python's `resource` gives it."""


@dataclass(frozen=True)
class RunFailed:
    """The engine did not run the container; `reason` is its own text."""

    reason: str


@dataclass(frozen=True)
class ModelSupport:
    """What vLLM's ModelRegistry says of the model's architectures (only asked with `check --deep`)."""

    architectures: tuple[str, ...]
    supported: bool
    pipeline_parallel: bool


@dataclass(frozen=True)
class NoConfiguration(Unknown):
    """The model is a GGUF file, and there is no config.json in the container that vLLM could be asked about."""


@dataclass(frozen=True)
class ImageReport:
    """The image as one node runs it. None: not in the image. Versions are those of the Python distributions."""

    python: str
    glibc: str | None
    ray: str | None
    vllm: str | None
    torch: str | None
    transformers: str | None
    nccl: str | None
    cuda: str | None
    """The CUDA release that torch was built for, such as 12.8; None for a CPU or ROCm build."""
    driver_cuda: str | None
    """The newest CUDA that the driver can run (cuDriverGetVersion), such as 13.0; None without a driver library."""
    cuda_error: int | None
    """What cuInit answered when it failed, such as 802 (system not yet initialized); None when it succeeded."""
    gpus: int | None
    """NVIDIA GPUs that a process in the container gets (cuDeviceGetCount); None without a driver library."""
    shm_bytes: int | None
    memlock_bytes: int
    """Soft limit of locked memory in bytes; -1 is unlimited."""
    ipc_lock: bool
    """Whether the first process holds CAP_IPC_LOCK, which lifts the limit of locked memory."""
    infiniband: tuple[str, ...]
    """Device nodes below /dev/infiniband inside."""
    libibverbs: bool
    libmlx5: str | None
    """File of libmlx5 as it is called on disk, such as libmlx5.so.1.24.50.0."""
    mlx5_dmabuf: bool | None
    """Whether libmlx5 has mlx5dv_reg_dmabuf_mr, which NCCL 2.27 and later look for; None without libmlx5."""
    environment: Mapping[str, str]
    """NCCL_*, VLLM_*, RAY_* and the like, as a process in the container sees them."""
    distributions: Mapping[str, str]
    """Python distribution → version."""
    digest: str
    """SHA-256 over the sorted lines `name==version` of all distributions."""
    broken_imports: Mapping[str, str]
    """Module → error, for those of ray and vllm that do not import (only asked with `check --deep`)."""
    model_support: Fact[ModelSupport]
    """None: not asked."""
    serve_flags: frozenset[str] | None
    """Flags that this vLLM's `serve` declares (`--nnodes`); None where they could not be read."""
    refused_options: str | None
    """What vLLM says against the options that the server would be started with; None: nothing, or it was not asked
    (only with `check --deep`)."""
    gpu_error: str | None = None
    """Why the container could not be started with GPUs, when it could without."""


def parse_report(output: str) -> ImageReport | Unknown:
    """The report from what the container printed on stdout: its last line, whatever the image says before it."""
    lines = output.strip().splitlines()
    if not lines:
        return Unknown("the container printed nothing")
    try:
        return _report(json.loads(lines[-1]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Unknown(f"what the container printed is no report ({error}): {lines[-1][:120]}")


def read_output(output: Output) -> ImageReport | RunFailed:
    """The report, or why there is none: the script ended early, and its last words say why."""
    found = parse_report(output.stdout.decode(errors="replace"))
    if isinstance(found, ImageReport):
        return found
    words = output.stderr.decode(errors="replace").strip().splitlines()
    return RunFailed(f"python3 in the image made no report: {words[-1][:300] if words else found.reason}")


def _report(said: Mapping[str, Any]) -> ImageReport:
    support = said["model_support"]
    return ImageReport(
        python=str(said["python"]),
        glibc=said["glibc"],
        ray=said["ray"],
        vllm=said["vllm"],
        torch=said["torch"],
        transformers=said["transformers"],
        nccl=said["nccl"],
        cuda=said["cuda"],
        driver_cuda=said["driver_cuda"],
        cuda_error=said["cuda_error"],
        gpus=said["gpus"],
        shm_bytes=said["shm_bytes"],
        memlock_bytes=int(said["memlock_bytes"]),
        ipc_lock=bool(said["ipc_lock"]),
        infiniband=tuple(said["infiniband"]),
        libibverbs=bool(said["libibverbs"]),
        libmlx5=said["libmlx5"],
        mlx5_dmabuf=said["mlx5_dmabuf"],
        environment=dict(said["environment"]),
        distributions=dict(said["distributions"]),
        digest=str(said["digest"]),
        broken_imports=dict(said["broken_imports"]),
        model_support=_support(support),
        serve_flags=frozenset(flags) if (flags := said.get("serve_flags")) is not None else None,
        refused_options=said.get("refused_options"),
    )


def _support(said: Any) -> Fact[ModelSupport]:
    if said is None:
        return None
    if "error" in said:
        return (NoConfiguration if said.get("no_configuration") else Unknown)(str(said["error"]))
    return ModelSupport(tuple(said["architectures"]), bool(said["supported"]), bool(said["pipeline_parallel"]))
