"""A process in the container gets as many GPUs as were asked for, and CUDA works there."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.image import reports
from clusterctl.inventory.model import Inventory

CUDA_ERROR_NO_DEVICE = 100
"""cuInit's answer where it sees no GPU: none was passed, or CUDA_VISIBLE_DEVICES is empty."""
CUDA_ERRORS = {
    802: "system not yet initialized: the fabric manager is missing, or of another version than the driver",
    803: "the driver and its library are of different versions: it was upgraded without a reboot",
    804: "the compatibility library in the image does not work on this GPU",
}
"""Answers of cuInit (cuda.h, CUresult) that have a known cause."""

NO_CUDA = Code(
    name="cuda-init-fails",
    severity=ERROR,
    title="CUDA does not start in the container",
    runbook="image-report.md",
    seen="cuInit in the container returns {code}: {cause}",
    why="no process in the container can use a GPU",
    fix="on the node: nvidia-smi; systemctl status nvidia-fabricmanager; reboot after a driver upgrade",
    note="The cause is given where the code has a known one; else it refers to the CUDA driver API's list of error "
    "codes.",
)
TOO_FEW = Code(
    name="gpus-in-container",
    severity=ERROR,
    title="GPUs are missing in the container",
    runbook="image-report.md",
    seen="a process in the container gets {count} of {wanted} GPUs ({because})",
    why="Ray would wait forever for the others",
    fix="leave CUDA_VISIBLE_DEVICES and NVIDIA_VISIBLE_DEVICES unset (container.env, the image), MIG off: "
    "nvidia-smi -L",
    note="In parentheses: `CUDA_VISIBLE_DEVICES: VALUE`, or `without the driver's library`.",
)


@rule(Section.IMAGE_REPORT, NO_CUDA, TOO_FEW)
def gpus_in_container(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """A process in the container gets as many GPUs as were asked for, and CUDA works there."""
    wanted = facts.deep.gpus_wanted if facts.deep is not None else 0
    for name, _, report in reports(facts):
        if not wanted or report.gpu_error is not None:
            continue
        if report.cuda_error not in (None, CUDA_ERROR_NO_DEVICE):
            known = CUDA_ERRORS.get(report.cuda_error or 0, "see the CUDA driver API's list of error codes")
            yield NO_CUDA.found(name, code=report.cuda_error, cause=known)
        elif (report.gpus or 0) < wanted:
            visible = report.environment.get("CUDA_VISIBLE_DEVICES")
            no_driver = report.driver_cuda is None
            because = "without the driver's library" if no_driver else f"CUDA_VISIBLE_DEVICES: {visible}"
            yield TOO_FEW.found(name, count=report.gpus or 0, wanted=wanted, because=because)
