"""RDMA ports of the nodes."""

from __future__ import annotations

from collections.abc import Mapping

from clusterctl.deployment.rdma import unfit
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.rdma import RdmaPort
from clusterctl.findings.code import ERROR, WARNING
from clusterctl.findings.finding import Severity
from clusterctl.inventory.model import Inventory

UNLESS_REQUIRED = "an error with rdma: required"
"""When a missing piece of RDMA is an error; with `auto` NCCL would use TCP."""


def severity_of_missing(inventory: Inventory) -> Severity:
    """How bad it is that RDMA will not work."""
    return ERROR if inventory.rdma == "required" else WARNING


def rdma_ports(inventory: Inventory, facts: ClusterFacts) -> Mapping[str, tuple[RdmaPort, ...]]:
    """Nodes with RDMA devices that NCCL can use, and their ports; none where RDMA is off."""
    if inventory.rdma == "off":
        return {}
    found = {name: usable(node) for name, node in facts.nodes.items()}
    return {name: ports for name, ports in found.items() if ports}


def usable(node: NodeFacts) -> tuple[RdmaPort, ...]:
    """The node's ports, without those that NCCL cannot use: of another transport, or for managing NVSwitches."""
    return tuple(port for port in node.rdma if unfit(port) is None) if isinstance(node.rdma, tuple) else ()
