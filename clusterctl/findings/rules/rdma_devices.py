"""RDMA devices beside those of the other nodes, and as GPUs and NCCL need them. Pure; one small function a rule.

Whether a node has an ACTIVE port at all, and one link layer, is rdma.py's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from clusterctl.deployment.address import private_address
from clusterctl.deployment.rdma import chosen_ports
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.nvidia import KernelModule, NvidiaFacts
from clusterctl.facts.rdma import ETHERNET, ROCE_V2, RdmaPort, hca_of
from clusterctl.findings.finding import Finding, Severity
from clusterctl.inventory.model import Inventory

DMABUF_KERNEL = (5, 12)
"""First Linux whose verbs take GPU memory as dma-buf (ibv_reg_dmabuf_mr); it also takes NVIDIA's open modules."""


def ports_down(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Beside ports that are up, none that is meant is down (F29): the private network's, or one up on another node.

    A port that is down on every node is no finding: cards with an unused second port are common.
    """
    found = _ports(inventory, facts)
    up_somewhere = {port.name for ports in found.values() for port in ports if port.active}
    for name, ports in found.items():
        own = _private_hca(inventory, name, facts, ports)
        down = [port for port in ports if not port.active and (port == own or port.name in up_somewhere)]
        if down and any(port.active for port in ports):
            yield Finding(
                "rdma-port-down",
                Severity.WARNING,
                (name,),
                "; ".join(f"{p.name} ({_interfaces(p)}) is {p.state}, {p.phys_state}" for p in down),
                "NCCL leaves out a port that is not ACTIVE: TCP, or fewer rails than on the other nodes (F29)",
                "on the node: ibstat, or rdma link; check cable and switch port; InfiniBand in state INIT waits for a "
                "subnet manager (systemctl status opensm)",
            )


def alike(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """A node does not lack RDMA devices that the others have (F23)."""
    found = _ports(inventory, facts)
    active = {name: sum(port.active for port in ports) for name, ports in found.items()}
    counts = {
        name: active.get(name, 0) for name, node in facts.nodes.items() if name in found or node.rdma in (None, ())
    }
    most = max(counts.values(), default=0)
    # A device that is there and down is ports_down's, or rdma.py's.
    lacking = tuple(name for name in counts if counts[name] < most and len(found.get(name, ())) < most)
    if lacking:
        yield Finding(
            "rdma-devices-differ",
            Severity.WARNING,
            lacking,
            f"different numbers of ACTIVE RDMA ports: {', '.join(f'{name} {count}' for name, count in counts.items())}",
            "NCCL takes RDMA on one node and TCP on the other, which cannot talk to each other (F23)",
            "on the node: lspci -nn | grep -i mellanox; modprobe mlx5_ib; rdma link; or set rdma: off in the inventory",
        )


def gpudirect(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """An HCA can read and write GPU memory itself: nvidia_peermem, or dma-buf (F30)."""
    if inventory.accelerator.kind != "nvidia":
        return
    for name, ports in _ports(inventory, facts).items():
        node = facts.nodes[name]
        # Unified memory (DGX Spark) is the machine's own: an HCA needs no help, and GDRDMA is never said (F31).
        own_memory = isinstance(node.gpus, tuple) and any(gpu.memory_total_mib is not None for gpu in node.gpus)
        if not any(port.active for port in ports) or not own_memory or not isinstance(node.nvidia, NvidiaFacts):
            continue
        if node.nvidia.peermem is False and not _dmabuf(node, node.nvidia):
            kind = "open" if isinstance(node.nvidia.module, KernelModule) and node.nvidia.module.open else "closed"
            yield Finding(
                "gpudirect-missing",
                Severity.WARNING,
                (name,),
                f"nvidia_peermem is not loaded, and kernel {node.kernel} with NVIDIA's {kind} module offers no dma-buf",
                "all traffic between nodes is copied through the machine's memory: NET/IB without GDRDMA (F30)",
                "on the node: modprobe nvidia-peermem; for every boot: "
                "echo nvidia-peermem > /etc/modules-load.d/nvidia-peermem.conf",
            )


def _dmabuf(node: NodeFacts, nvidia: NvidiaFacts) -> bool:
    """Whether dma-buf does the same. What could not be read is not taken for absent (gpu-state-unknown says it)."""
    version = re.match(r"(\d{1,3})\.(\d{1,3})", node.kernel) if isinstance(node.kernel, str) else None
    new = version is None or (int(version[1]), int(version[2])) >= DMABUF_KERNEL
    return new and (not isinstance(nvidia.module, KernelModule) or nvidia.module.open)


def roce_gids(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The RoCE port of the private network has the GID that NCCL looks for: version 2, of the node's address (F32)."""
    for name, ports in _ports(inventory, facts).items():
        address = private_address(inventory, name, facts.nodes[name])
        own = _private_hca(inventory, name, facts, ports)
        if own is None or address is None or own not in chosen_ports(facts.nodes[name], address.interface):
            continue
        if own.link_layer != ETHERNET or any(gid.type == ROCE_V2 and gid.ipv4 == address.address for gid in own.gids):
            continue
        shown = ", ".join(f"{gid.index}: {gid.ipv4 or gid.address} {gid.type}" for gid in own.gids) or "none"
        yield Finding(
            "roce-gid-missing",
            Severity.WARNING,
            (name,),
            f"{own.name} has no RoCE v2 GID of {address.address} (GIDs: {shown})",
            "NCCL then picks a GID that the other nodes may not reach: ibv_modify_qp failed, timed out (F32)",
            f"on the node: ip addr show {address.interface} (the address belongs on the HCA's own interface, not on a "
            f"bridge above it); rdma link show {own.device}/{own.port}",
        )


def _ports(inventory: Inventory, facts: ClusterFacts) -> Mapping[str, tuple[RdmaPort, ...]]:
    """Nodes with RDMA devices, and their ports; none where RDMA is off."""
    if inventory.rdma == "off":
        return {}
    return {name: node.rdma for name, node in facts.nodes.items() if isinstance(node.rdma, tuple) and node.rdma}


def _private_hca(inventory: Inventory, name: str, facts: ClusterFacts, ports: tuple[RdmaPort, ...]) -> RdmaPort | None:
    """The HCA of the private network's interface, where there is one."""
    address = private_address(inventory, name, facts.nodes[name])
    return None if address is None else hca_of(ports, address.interface)


def _interfaces(port: RdmaPort) -> str:
    return ", ".join(port.interfaces) or "no interface"
