"""On bare metal, PCI traffic between GPUs (and to HCAs) is not sent through the root complex or an IOMMU."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.gpus import used_gpus
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.nvidia import NvidiaFacts, Topology
from clusterctl.facts.records import Gpu
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.gpus import drivers
from clusterctl.inventory.model import Inventory

TRANSLATED = ("DMA", "DMA-FQ")
"""Types of IOMMU groups whose addresses are translated (Linux, Documentation/ABI/testing/sysfs-kernel-iommu_groups)."""

ISOLATED = Code(
    name="pci-isolation",
    severity=WARNING,
    title="PCI isolation",
    runbook="gpu-driver.md",
    seen="{what}",
    why="GPUs that communicate over PCIe then hang in NCCL's start, or are very slow",
    fix="boot with iommu=pt, and switch ACS off in the firmware, or: setpci -s BRIDGE ECAP_ACS+0x6.w=0000 "
    "(bare metal only); to see whether it matters: NCCL_P2P_DISABLE=1 in container.env",
    note="The IOMMU translates the GPUs' addresses (TYPE), or N PCI bridges have access control (ACS) on, or both. "
    "Only on bare metal, and only where GPUs reach each other or an HCA over PCIe. Bridges are checked where the "
    "login is root and lspci is installed.",
)


@rule(Section.NVIDIA, ISOLATED)
def pci_isolation(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """On bare metal, PCI traffic between GPUs is not sent through the root complex or an IOMMU."""
    for name, nvidia in drivers(inventory, facts):
        node = facts.nodes[name]
        gpus = used_gpus(inventory, name, node)
        if node.system.virtual is not False or not _needs_pci(node, nvidia, gpus):
            continue
        translated = sorted({kind for kind in _groups(nvidia, gpus) if kind in TRANSLATED})
        bridges = nvidia.acs_bridges if isinstance(nvidia.acs_bridges, int) else 0
        what = [f"the IOMMU translates the GPUs' addresses ({', '.join(translated)})"] if translated else []
        what += [f"{bridges} PCI bridges have access control (ACS) on"] if bridges else []
        if what:
            yield ISOLATED.found(name, what=" and ".join(what))


def _groups(nvidia: NvidiaFacts, gpus: tuple[Gpu, ...]) -> Iterator[str]:
    """Types of the IOMMU groups that these GPUs are in, and of all where an address was not read."""
    iommu = {} if isinstance(nvidia.iommu, Unknown) else nvidia.iommu
    addresses = {_short(gpu.pci_address) for gpu in gpus}
    for address, kind in iommu.items():
        if "" in addresses or not gpus or _short(address) in addresses:
            yield kind


def _short(address: str) -> str:
    """A PCI address as both have it: nvidia-smi writes the domain with eight digits, the kernel with four."""
    domain, _, rest = address.lower().partition(":")
    return f"{domain[-4:]}:{rest}" if rest else ""


def _needs_pci(node: NodeFacts, nvidia: NvidiaFacts, gpus: tuple[Gpu, ...]) -> bool:
    """Whether GPUs reach each other, or an HCA, over PCIe: NVLink is not concerned."""
    indices = [gpu.index for gpu in gpus]
    pairs = nvidia.topology.without_nvlink(indices) if isinstance(nvidia.topology, Topology) else ()
    hca = isinstance(node.rdma, tuple) and any(port.active for port in node.rdma)
    return bool(pairs) or hca
