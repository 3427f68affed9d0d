"""The engine starts the image with the serving container's flags, and its python3 runs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.image_report import RunFailed
from clusterctl.findings.code import ERROR, WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

FAILS = Code(
    name="container-start-fails",
    severity=ERROR,
    title="The container does not start",
    runbook="image-report.md",
    seen="{reason}",
    why="the serving container has the same image and flags, so it would not start either",
    fix=lambda engine: (
        f"on the node: {engine.run('--entrypoint python3 {image} --version')}; then the flags that the "
        "message names (container.ulimits, container.devices, container.cap_add)"
    ),
    note="The reason is the engine's message when it was to start the image with the serving container's flags, or the "
    "last line of python3 in it.",
)
NO_REPORT = Code(
    name="image-report-unknown",
    severity=WARNING,
    title="The image could not be asked",
    runbook="image-report.md",
    seen="the image could not be asked what is in it: {reason}",
    why="versions, GPUs and limits in the container are not known",
    fix=lambda engine: f"clusterctl check again; {engine.running} on the node shows whether a probe is still there",
)
WITHOUT_GPUS_ONLY = Code(
    name="gpu-container-fails",
    severity=ERROR,
    title="Containers get no GPUs",
    runbook="image-report.md",
    seen="the image starts without GPUs, but not with them: {reason}",
    why="the engine cannot give GPUs to a container",
    fix=lambda engine: (
        f"on the node: install nvidia-container-toolkit, {engine.give_gpus}, {engine.restart} (Docker "
        "from snap cannot do it)"
    ),
)


DRIVER_TOO_OLD = WITHOUT_GPUS_ONLY.variant(
    why="the toolkit is there, and refuses: the image wants a newer CUDA than the node's driver can run",
    fix="install a newer NVIDIA driver on the node, or use an image that was built for an older CUDA",
)
REQUIREMENT = re.compile(r"unsatisfied condition: (?:cuda|driver)|please update your driver", re.IGNORECASE)
"""nvidia-container-cli's words (libnvidia-container 1.13 to 1.17) for NVIDIA_REQUIRE_CUDA of the image."""


@rule(Section.IMAGE_REPORT, FAILS, NO_REPORT, WITHOUT_GPUS_ONLY, DRIVER_TOO_OLD)
def container_start(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The engine starts the image with the serving container's flags, and its python3 runs."""
    for name, report in (facts.deep.images if facts.deep is not None else {}).items():
        commands = facts.nodes[name].commands
        if isinstance(report, RunFailed):
            yield FAILS.found(name, engine=commands, reason=report.reason, image=inventory.container.image)
        elif isinstance(report, Unknown):
            yield NO_REPORT.found(name, engine=commands, reason=report.reason)
        elif report.gpu_error is not None:
            code = DRIVER_TOO_OLD if REQUIREMENT.search(report.gpu_error) else WITHOUT_GPUS_ONLY
            yield code.found(name, engine=commands, reason=report.gpu_error)
