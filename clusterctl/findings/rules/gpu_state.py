"""What of the GPUs' drivers could not be read, and so was not checked."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Fact, Unknown
from clusterctl.facts.nvidia import NvidiaFacts
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.nodes import UNCHECKED_WHY, UNREAD_FIX
from clusterctl.inventory.model import Inventory

UNKNOWN = Code(
    name="gpu-state-unknown",
    severity=WARNING,
    title="The driver cannot be read",
    runbook="gpu-driver.md",
    seen="could not be checked: {what}",
    why=UNCHECKED_WHY,
    fix=UNREAD_FIX,
    note="Processes on the GPUs, the driver, its kernel module, the topology, PCI access control, each with the "
    "reason; or the error of rocm-smi.",
)


REMARKS = Code(
    name="gpu-warning",
    severity=WARNING,
    title="nvidia-smi warns",
    runbook="gpu-driver.md",
    seen="nvidia-smi printed more than its rows: {text}",
    why="the GPUs that it lists are counted; what it warns about may come before a failure",
    fix="nvidia-smi -q on the node shows which GPU it is; a corrupted infoROM is for the vendor, an XID is in dmesg",
)


@rule(Section.NVIDIA, UNKNOWN, REMARKS)
def gpu_state(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """What of the GPUs' drivers could not be read, and so was not checked."""
    kind, counted = inventory.accelerator.kind, inventory.accelerator.per_node != "auto"
    for name, node in facts.nodes.items():
        if kind == "nvidia" and node.gpu_remarks:
            yield REMARKS.found(name, text="; ".join(node.gpu_remarks)[:300])
        if kind == "nvidia" and (lost := _unread(node)):
            yield UNKNOWN.found(name, what="; ".join(lost))
        elif kind == "amd" and counted and isinstance(node.amd_gpus, Unknown):
            yield UNKNOWN.found(name, what=node.amd_gpus.reason)


def _unread(node: NodeFacts) -> list[str]:
    if isinstance(node.gpus, Unknown):
        return []  # an error of its own
    asked: dict[str, Fact[object]] = {"processes on the GPUs": node.gpu_processes, "the driver": node.nvidia}
    if isinstance(node.nvidia, NvidiaFacts):
        asked |= {"the kernel module": node.nvidia.module, "the topology": node.nvidia.topology}
        asked |= {"PCI access control": node.nvidia.acs_bridges}
    return [f"{what}: {fact.reason}" for what, fact in asked.items() if isinstance(fact, Unknown)]
