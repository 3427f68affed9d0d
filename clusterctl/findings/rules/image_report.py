"""What the image says when it runs on a node (facts/deep.py). Pure; one small function a rule.

Nothing is said when the image was not asked (`up --check quick`, `plan`, `status`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from clusterctl.deployment.address import accelerators_per_node
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.image_report import MEMLOCK_UNLIMITED, ImageReport, ModelSupport, RunFailed
from clusterctl.findings.finding import Finding, Severity
from clusterctl.inventory.layout import layout_of
from clusterctl.inventory.model import Inventory

OLDEST_PYTHON = (3, 11)
"""What agent/agent.py is written for."""
OLDEST_RAY = (2, 52)
"""First Ray with token authentication (RAY_AUTH_MODE), and with CVE-2025-62593 mended."""
SHM_SURELY_TOO_SMALL_BYTES = 64 << 20
"""Docker's default. vLLM's queue between the server and one node's ranks alone is larger (0.32: 10 chunks of 16 MiB,
VLLM_MQ_MAX_CHUNK_BYTES_MB)."""
SHM_SMALL_BYTES = 1 << 30
"""NVIDIA's own containers ask for 1 GiB at least (NCCL's troubleshooting guide, «Shared memory»)."""
OLDEST_NCCL_WITH_DMABUF_SYMBOL = (2, 27)
"""First NCCL that looks for mlx5dv_reg_dmabuf_mr."""
CUDA_ERROR_NO_DEVICE = 100
"""cuInit's answer where it sees no GPU: none was passed, or CUDA_VISIBLE_DEVICES is empty."""
CUDA_ERRORS = {
    802: "system not yet initialized: the fabric manager is not there, or of another version than the driver (F12)",
    803: "the driver and its library are of different versions: it was upgraded without a reboot (F10)",
    804: "the compatibility library in the image does not work on this GPU (F11)",
}
"""Answers of cuInit (cuda.h, CUresult) that have a known cause."""


def reports(facts: ClusterFacts) -> Iterator[tuple[str, NodeFacts, ImageReport]]:
    """Every node whose image reported."""
    for name, report in (facts.deep.images if facts.deep is not None else {}).items():
        if isinstance(report, ImageReport):
            yield name, facts.nodes[name], report


def numbers(version: str | None) -> tuple[int, ...]:
    """A version's leading numbers: 2.60.0rc1 → (2, 60, 0)."""
    found = re.match(r"\d+(\.\d+)*", version or "")
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def has_verbs(names: tuple[str, ...] | Unknown | None) -> bool:
    """Whether one of these device nodes is what RDMA runs over."""
    return isinstance(names, tuple) and any(name.startswith("uverbs") for name in names)


def container_starts(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The engine starts the image with the serving container's flags, and its python3 runs (F17, F22)."""
    for name, report in (facts.deep.images if facts.deep is not None else {}).items():
        if isinstance(report, RunFailed):
            yield Finding(
                "container-start-fails",
                Severity.ERROR,
                (name,),
                report.reason,
                "the serving container has the same image and flags, so it would not start either (F17, F22)",
                f"on the node: docker run --rm --entrypoint python3 {inventory.container.image} --version; then the "
                "flags that the message names (container.ulimits, container.devices, container.cap_add)",
            )
        elif isinstance(report, Unknown):
            yield Finding(
                "image-report-unknown",
                Severity.WARNING,
                (name,),
                f"the image could not be asked what is in it: {report.reason}",
                "versions, GPUs and limits in the container are not known",
                "clusterctl check again; docker ps on the node shows whether a probe is still there",
            )
        elif report.gpu_error is not None:
            yield Finding(
                "gpu-container-fails",
                Severity.ERROR,
                (name,),
                f"the image starts without GPUs and not with them: {report.gpu_error}",
                "the engine cannot give GPUs to a container (F17)",
                "on the node: install nvidia-container-toolkit, nvidia-ctk runtime configure --runtime=docker, "
                "systemctl restart docker (Docker from snap cannot do it)",
            )


def software(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Ray, vLLM and a Python that the agent can run on are in the image (F20); Ray knows tokens (F65)."""
    for name, _, report in reports(facts):
        missing = [f"no {title}" for title, version in (("Ray", report.ray), ("vLLM", report.vllm)) if version is None]
        broken = [f"{module} does not import ({error})" for module, error in report.broken_imports.items()]
        if missing or broken:
            yield Finding(
                "image-incomplete",
                Severity.ERROR,
                (name,),
                f"{inventory.container.image}: {', '.join([*missing, *broken])}",
                "the nodes are joined by Ray, and vLLM's own images have had none since 0.18 (F20)",
                "build an image on top of it: FROM IMAGE, then RUN pip install ray[default]; set container.image",
            )
        if numbers(report.python)[:2] < OLDEST_PYTHON:
            yield Finding(
                "image-python-old",
                Severity.ERROR,
                (name,),
                f"python3 in {inventory.container.image} is {report.python}",
                "clusterctl's agent, the container's first process, needs Python 3.11 or newer",
                "use an image with a newer Python",
            )
        if report.ray is not None and () < numbers(report.ray)[:2] < OLDEST_RAY:
            yield Finding(
                "ray-without-tokens",
                Severity.ERROR,
                (name,),
                f"Ray in {inventory.container.image} is {report.ray}",
                "before 2.52 Ray ignores the cluster's token: whoever reaches its ports runs code on the nodes (F65)",
                "use an image with Ray 2.52 or newer",
            )


def gpus_inside(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """A process in the container gets as many GPUs as were asked for, and CUDA works there (F10, F11, F12, F14)."""
    wanted = facts.deep.gpus_wanted if facts.deep is not None else 0
    for name, _, report in reports(facts):
        if not wanted or report.gpu_error is not None:
            continue
        if report.cuda_error not in (None, CUDA_ERROR_NO_DEVICE):
            known = CUDA_ERRORS.get(report.cuda_error or 0, "see the CUDA driver API's list of error codes")
            yield Finding(
                "cuda-init-fails",
                Severity.ERROR,
                (name,),
                f"cuInit in the container answers {report.cuda_error}: {known}",
                "no process in the container can use a GPU (F10, F12)",
                "on the node: nvidia-smi; systemctl status nvidia-fabricmanager; reboot after a driver upgrade",
            )
        elif (report.gpus or 0) < wanted:
            visible = report.environment.get("CUDA_VISIBLE_DEVICES")
            no_driver = report.driver_cuda is None
            because = "without the driver's library" if no_driver else f"CUDA_VISIBLE_DEVICES: {visible}"
            yield Finding(
                "gpus-in-container",
                Severity.ERROR,
                (name,),
                f"a process in the container gets {report.gpus or 0} of {wanted} GPUs ({because})",
                "Ray would wait for the others for ever (F14, F45)",
                "leave CUDA_VISIBLE_DEVICES and NVIDIA_VISIBLE_DEVICES unset (container.env, the image), MIG off: "
                "nvidia-smi -L",
            )


def cuda_and_driver(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The driver runs the CUDA that the image was built for (F11; CUDA Compatibility guide)."""
    for name, _, report in reports(facts):
        image, driver = numbers(report.cuda)[:2], numbers(report.driver_cuda)[:2]
        if not image or not driver or image <= driver:
            continue
        # Within a major release newer runs on older, except for code that the driver compiles itself (PTX); forward
        # compatibility is data-centre GPUs', and vLLM switches it on by this variable.
        compatible = image[0] == driver[0] or report.environment.get("VLLM_ENABLE_CUDA_COMPATIBILITY") == "1"
        yield Finding(
            "cuda-newer-than-driver",
            Severity.WARNING if compatible else Severity.ERROR,
            (name,),
            f"the image's torch is built for CUDA {report.cuda}, and the driver runs CUDA {report.driver_cuda} at most",
            "«The NVIDIA driver on your system is too old», or kernels that do not load (F11)",
            'upgrade the driver on the node; on data-centre GPUs VLLM_ENABLE_CUDA_COMPATIBILITY: "1" in container.env '
            "can do instead",
        )


def shared_memory(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Shared memory in the container holds NCCL's and vLLM's buffers (F21)."""
    for name, _, report in reports(facts):
        if report.shm_bytes is not None and report.shm_bytes < SHM_SMALL_BYTES:
            surely = report.shm_bytes <= SHM_SURELY_TOO_SMALL_BYTES
            yield Finding(
                "shm-too-small",
                Severity.ERROR if surely else Severity.WARNING,
                (name,),
                f"shared memory (/dev/shm) in the container has {report.shm_bytes >> 20} MiB",
                "NCCL and vLLM's queues between processes live there: «Bus error», «failed to extend /dev/shm» (F21)",
                "leave container.shm_bytes out (256 GiB), or raise it (with ipc host, on the node: mount -o "
                "remount,size=16G /dev/shm)",
            )


def locked_memory(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """RDMA may lock the memory that it registers (F22)."""
    for name, node, report in reports(facts):
        required = inventory.rdma == "required"
        wanted = required or has_verbs(node.infiniband)
        if wanted and report.memlock_bytes != MEMLOCK_UNLIMITED and not report.ipc_lock:
            yield Finding(
                "memlock-in-container",
                Severity.ERROR if required else Severity.WARNING,
                (name,),
                f"the container may lock {report.memlock_bytes >> 10} KiB of memory, and has no IPC_LOCK",
                "RDMA registers gigabytes: «ibv_reg_mr failed», «Cannot allocate memory» (F22)",
                "leave container.ulimits and container.cap_add at their defaults (memlock: -1, IPC_LOCK)",
            )


def rdma_inside(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Where the node has RDMA devices, the container has them and the libraries (F23, F24, F25)."""
    for name, node, report in reports(facts):
        if inventory.rdma == "off" or not has_verbs(node.infiniband):
            continue
        if not has_verbs(report.infiniband):
            yield Finding(
                "rdma-not-in-container",
                Severity.WARNING,
                (name,),
                "the node has /dev/infiniband/uverbs*, the container has none",
                "NCCL falls back to TCP without saying so: «NET/IB : No device found» (F23)",
                "on the node: ls -l /dev/infiniband; leave container.devices without another /dev/infiniband",
            )
        if not report.libibverbs:
            yield Finding(
                "libibverbs-missing",
                Severity.WARNING,
                (name,),
                f"libibverbs.so.1 cannot be loaded in {inventory.container.image}, and the node has RDMA devices",
                "NCCL opens it at run time and falls back to TCP without it (F24)",
                "add it to the image: apt-get install libibverbs1 ibverbs-providers (package rdma-core)",
            )
        elif report.mlx5_dmabuf is False and numbers(report.nccl) >= OLDEST_NCCL_WITH_DMABUF_SYMBOL:
            yield Finding(
                "libmlx5-old",
                Severity.WARNING,
                (name,),
                f"{report.libmlx5} in the image has no mlx5dv_reg_dmabuf_mr, for which NCCL {report.nccl} looks",
                "«dlvsym failed on mlx5dv_…»: on newer adapters all-to-all and point-to-point transfers may fail (F25)",
                "add a newer rdma-core to the image (the distribution's backports, or NVIDIA's DOCA packages)",
            )


def architecture(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """vLLM knows the model, and can split it into stages where it is to (F53; only with `check --deep`)."""
    for name, _, report in reports(facts):
        support = report.model_support
        if isinstance(support, Unknown):
            yield Finding(
                "model-support-unknown",
                Severity.WARNING,
                (name,),
                f"vLLM's ModelRegistry could not be asked: {support.reason}",
                "whether this vLLM can serve the model is not known",
                "run it by hand: docker run with --entrypoint python3, from vllm import ModelRegistry",
            )
        elif isinstance(support, ModelSupport):
            yield from _supported(inventory, facts, name, support)


def _supported(inventory: Inventory, facts: ClusterFacts, name: str, support: ModelSupport) -> Iterator[Finding]:
    architectures = ", ".join(support.architectures) or "no architecture"
    if not support.supported:
        yield Finding(
            "model-not-in-registry",
            Severity.WARNING,
            (name,),
            f"config.json names {architectures}, which vLLM in {inventory.container.image} does not know",
            "it would be run by way of transformers, slower, or not at all",
            "use an image with a newer vLLM, or correct the model's config.json",
        )
    elif not support.pipeline_parallel and _stages(inventory, facts) > 1:
        yield Finding(
            "pipeline-unsupported",
            Severity.ERROR,
            (name,),
            f"vLLM cannot split {architectures} into pipeline stages, and the layout has {_stages(inventory, facts)}",
            "«Pipeline parallelism is not supported for this model» (F53)",
            "one node with serve.pipeline_parallel: 1, or another model",
        )


def _stages(inventory: Inventory, facts: ClusterFacts) -> int:
    try:
        layout = layout_of(inventory, accelerators_per_node(inventory, facts))
    except ValueError:
        return 1  # a finding of its own
    return layout.pipeline_parallel
