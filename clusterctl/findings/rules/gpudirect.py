"""An HCA can read and write GPU memory itself: nvidia_peermem, or dma-buf."""

from __future__ import annotations

import re
from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.nvidia import KernelModule, NvidiaFacts
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.gpus import own_memory
from clusterctl.findings.topics.rdma import rdma_ports
from clusterctl.inventory.model import Inventory

DMABUF_KERNEL = (5, 12)
"""First Linux whose verbs take GPU memory as dma-buf (ibv_reg_dmabuf_mr); it also takes NVIDIA's open modules."""

MISSING = Code(
    name="gpudirect-missing",
    severity=WARNING,
    title="GPUDirect RDMA is missing",
    runbook="rdma-devices.md",
    seen="nvidia_peermem is not loaded, and kernel {version} with NVIDIA's {kind} module offers no dma-buf",
    why="all traffic between nodes is copied through the machine's memory: NET/IB without GDRDMA",
    fix="on the node: modprobe nvidia-peermem; for every boot: echo nvidia-peermem > "
    "/etc/modules-load.d/nvidia-peermem.conf",
    note="The kind is closed or open. Not where GPUs have no memory of their own (DGX Spark).",
)


@rule(Section.RDMA_DEVICES, MISSING)
def gpudirect(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """An HCA can read and write GPU memory itself: nvidia_peermem, or dma-buf."""
    if inventory.accelerator.kind != "nvidia":
        return
    for name, ports in rdma_ports(inventory, facts).items():
        node = facts.nodes[name]
        nvidia = node.nvidia
        if not any(port.active for port in ports) or not own_memory(node) or not isinstance(nvidia, NvidiaFacts):
            continue
        if nvidia.peermem is False and not _dmabuf(node, nvidia):
            kind = "open" if isinstance(nvidia.module, KernelModule) and nvidia.module.open else "closed"
            yield MISSING.found(name, version=node.kernel, kind=kind)


def _dmabuf(node: NodeFacts, nvidia: NvidiaFacts) -> bool:
    """Whether dma-buf does the same. What could not be read is not taken for absent (gpu-state-unknown reports it)."""
    version = re.match(r"(\d{1,3})\.(\d{1,3})", node.kernel) if isinstance(node.kernel, str) else None
    new = version is None or (int(version[1]), int(version[2])) >= DMABUF_KERNEL
    return new and (not isinstance(nvidia.module, KernelModule) or nvidia.module.open)
