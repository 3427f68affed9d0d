"""A node does not lack RDMA devices that the others have."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.rdma import rdma_ports
from clusterctl.inventory.model import Inventory

DIFFER = Code(
    name="rdma-devices-differ",
    severity=WARNING,
    title="RDMA devices differ",
    runbook="rdma-devices.md",
    seen="different numbers of ACTIVE RDMA ports: {counts}",
    why="NCCL uses RDMA on one node and TCP on the other, which cannot communicate",
    fix="on the node: lspci -nn | grep -i mellanox; modprobe mlx5_ib; rdma link; or set rdma: off in the inventory",
)


@rule(Section.RDMA_DEVICES, DIFFER)
def rdma_devices_differ(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """A node does not lack RDMA devices that the others have."""
    found = rdma_ports(inventory, facts)
    active = {name: sum(port.active for port in ports) for name, ports in found.items()}
    counts = {
        name: active.get(name, 0)
        for name, node in facts.nodes.items()
        if name in found or not isinstance(node.rdma, Unknown)
    }
    most = max(counts.values(), default=0)
    # A device that is there and down is reported by rdma_port_down.py or rdma_ports.py.
    lacking = tuple(name for name in counts if counts[name] < most and len(found.get(name, ())) < most)
    if lacking:
        yield DIFFER.found(*lacking, counts=", ".join(f"{name} {count}" for name, count in counts.items()))
