"""No GPU has had memory errors that it could not correct."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.gpus import used_gpus
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

UNCORRECTED = Code(
    name="gpu-memory-errors",
    severity=WARNING,
    title="Memory errors",
    runbook="gpu-driver.md",
    seen="uncorrected memory errors since the driver was loaded: {counts}",
    why="the process that hits one dies, and with it the whole gang",
    fix="on the node: nvidia-smi -q -d ECC,ROW_REMAPPER; dmesg | grep -i xid; reset or replace the GPU",
    note="Counts are shown as `GPU N COUNT`.",
)


@rule(Section.NVIDIA, UNCORRECTED)
def gpu_memory_errors(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """No GPU has had memory errors that it could not correct."""
    for name, node in facts.nodes.items():
        bad = [gpu for gpu in used_gpus(inventory, name, node) if gpu.ecc_uncorrected]
        if bad:
            yield UNCORRECTED.found(name, counts=", ".join(f"GPU {gpu.index} {gpu.ecc_uncorrected}" for gpu in bad))
