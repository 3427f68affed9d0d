"""The driver's library and the loaded kernel module are of one version."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.nvidia import KernelModule
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.gpus import drivers
from clusterctl.inventory.model import Inventory

MISMATCH = Code(
    name="gpu-driver-mismatch",
    severity=ERROR,
    title="Driver and module differ",
    runbook="gpu-driver.md",
    seen="the loaded kernel module is {version}, and nvidia-smi reports: {message}",
    why="the driver was upgraded while the old module is loaded: no new process can use a GPU",
    fix="reboot the node (or stop everything on its GPUs, then: rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia; "
    "modprobe nvidia)",
    note="The exit code of nvidia-smi is then 18.",
)


@rule(Section.NVIDIA, MISMATCH)
def gpu_driver_mismatch(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The driver's library and the loaded kernel module are of one version."""
    for name, nvidia in drivers(inventory, facts):
        if nvidia.version_mismatch is not None:
            loaded = nvidia.module.version if isinstance(nvidia.module, KernelModule) else "of an unknown version"
            yield MISMATCH.found(name, version=loaded, message=nvidia.version_mismatch)
