"""The driver runs the CUDA that the image was built for (NVIDIA's CUDA Compatibility guide)."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import ERROR, WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.image import numbers, reports
from clusterctl.inventory.model import Inventory

TOO_NEW = Code(
    name="cuda-newer-than-driver",
    severity=ERROR,
    unless="a warning where it is only a minor release ahead",
    title="The image's CUDA is too new for the driver",
    runbook="image-report.md",
    seen="the image's torch is built for CUDA {version}, and the driver runs CUDA {driver_version} at most",
    why='"The NVIDIA driver on your system is too old", or kernels that do not load',
    fix='upgrade the driver on the node; on data-centre GPUs VLLM_ENABLE_CUDA_COMPATIBILITY: "1" in container.env may '
    "be enough",
)


@rule(Section.IMAGE_REPORT, TOO_NEW)
def cuda_and_driver(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The driver runs the CUDA that the image was built for."""
    for name, _, report in reports(facts):
        image, driver = numbers(report.cuda)[:2], numbers(report.driver_cuda)[:2]
        if not image or not driver or image <= driver:
            continue
        # Within a major release newer runs on older, except for code that the driver compiles itself (PTX); forward
        # compatibility is data-centre GPUs', and vLLM switches it on by this variable.
        compatible = image[0] == driver[0] or report.environment.get("VLLM_ENABLE_CUDA_COMPATIBILITY") == "1"
        yield TOO_NEW.found(
            name,
            severity=WARNING if compatible else ERROR,
            version=report.cuda,
            driver_version=report.driver_cuda,
        )
