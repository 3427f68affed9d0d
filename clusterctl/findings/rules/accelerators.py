"""Enough accelerators on every node, and the same number everywhere."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.gpus import missing_devices, usable_gpus
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.nvidia import NvidiaFacts
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.gpus import counts, is_countable
from clusterctl.findings.topics.nodes import UNREAD_FIX, UNREAD_WHY
from clusterctl.inventory.model import Inventory

TOO_FEW = Code(
    name="gpus-missing",
    severity=ERROR,
    title="GPUs are missing",
    runbook="gpus.md",
    seen="{count} GPUs, accelerator.per_node says {wanted}",
    why="tensor parallelism would spill over nodes or wait forever",
    fix="nvidia-smi -L on the node; correct accelerator.per_node or repair the GPU",
    waivable=False,
)
TOO_FEW_OF_AMD = TOO_FEW.variant(
    seen="{count} GPUs by rocm-smi, accelerator.per_node says {wanted}",
    fix="rocm-smi -i on the node; correct accelerator.per_node or repair the GPU",
)
TOO_FEW_IN_CDI = TOO_FEW.variant(
    seen="{count} GPUs in the node's CDI specification, accelerator.per_node says {wanted}",
    fix="nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml on the node; correct accelerator.per_node",
)
CHOSEN_ARE_GONE = TOO_FEW.variant(
    seen="chosen GPUs are not there: {which} (the node has {there})",
    why="the engine refuses to start a container with a GPU that is not there",
    fix="nvidia-smi -L on the node; correct accelerator.devices (or the node's gpus), or repair the GPU",
)
AMDS_ARE_GONE = CHOSEN_ARE_GONE.variant(
    seen="chosen GPUs are not there: {which} (the driver's topology has {there})",
    fix="rocm-smi -i on the node; correct accelerator.devices (or the node's gpus), or load the amdgpu driver",
)
NO_DRIVER = TOO_FEW.variant(
    seen="nvidia-smi is not installed on the node",
    why="accelerator.kind is nvidia",
    fix="install the NVIDIA driver, or correct accelerator.kind",
)
UNKNOWN = Code(
    name="gpus-unknown",
    severity=ERROR,
    title="GPUs cannot be read",
    runbook="gpus.md",
    seen="{reason}",
    why=UNREAD_WHY,
    fix=UNREAD_FIX,
    note="The reason is the error of `nvidia-smi`.",
    waivable=False,
)
NOT_COUNTED = UNKNOWN.variant(
    seen="accelerator.per_node is auto, and accelerators of kind {kind} are not counted",
    why="how the model is spread over the nodes depends on their number",
    fix="set accelerator.per_node to a number (rocm-smi -i on the node)",
)
DIFFER = Code(
    name="gpus-differ",
    severity=ERROR,
    title="Different numbers of GPUs",
    runbook="gpus.md",
    seen="different numbers of GPUs: {counts}",
    why="each node holds one pipeline stage of the same tensor-parallel size",
    fix="set accelerator.per_node to what all nodes have, or leave the odd node out",
    note="Only with `accelerator.per_node: auto`.",
)


@rule(
    Section.LAYOUT,
    TOO_FEW,
    TOO_FEW_IN_CDI,
    CHOSEN_ARE_GONE,
    AMDS_ARE_GONE,
    TOO_FEW_OF_AMD,
    NO_DRIVER,
    UNKNOWN,
    NOT_COUNTED,
    DIFFER,
)
def accelerators(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Enough accelerators on every node, and the same number everywhere."""
    kind, wanted = inventory.accelerator.kind, inventory.accelerator.per_node
    if not is_countable(inventory):
        yield NOT_COUNTED.found(kind=kind)
        return
    for name, node in facts.nodes.items():
        if kind == "nvidia":
            yield from _nvidia(inventory, name, node)
        elif kind == "amd" and (gone := missing_devices(inventory, name, node)):
            there = len(node.amd_render_nodes) if isinstance(node.amd_render_nodes, tuple) else 0
            yield AMDS_ARE_GONE.found(name, which=", ".join(map(str, gone)), there=there)
        elif kind == "amd" and isinstance(node.amd_gpus, int) and node.amd_gpus < int(wanted):
            yield TOO_FEW_OF_AMD.found(name, count=node.amd_gpus, wanted=wanted)
    found = counts(inventory, facts)
    if wanted == "auto" and len(set(found.values())) > 1:
        yield DIFFER.found(*found, counts=", ".join(f"{name} {count}" for name, count in found.items()))


def _nvidia(inventory: Inventory, name: str, node: NodeFacts) -> Iterator[Finding]:
    wanted = inventory.accelerator.per_node
    if isinstance(node.gpus, Unknown):
        # A driver that does not match its module has a finding of its own.
        if not isinstance(node.nvidia, NvidiaFacts) or node.nvidia.version_mismatch is None:
            yield UNKNOWN.found(name, reason=node.gpus.reason)
    elif node.gpus is None:
        yield NO_DRIVER.found(name)
    elif gone := missing_devices(inventory, name, node):
        yield CHOSEN_ARE_GONE.found(name, which=", ".join(map(str, gone)), there=len(node.gpus))
    elif (count := len(usable_gpus(inventory, name, node))) < (wanted if isinstance(wanted, int) else 1):
        yield (TOO_FEW if count == len(node.gpus) else TOO_FEW_IN_CDI).found(name, count=count, wanted=wanted)
