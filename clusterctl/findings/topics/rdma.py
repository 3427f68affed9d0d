"""RDMA ports of the nodes."""

from __future__ import annotations

from collections.abc import Mapping

from clusterctl.deployment.address import private_address
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.rdma import RdmaPort, hca_of
from clusterctl.findings.code import ERROR, WARNING
from clusterctl.findings.finding import Severity
from clusterctl.inventory.model import Inventory

UNLESS_REQUIRED = "an error with rdma: required"
"""When a missing piece of RDMA is an error; with `auto` NCCL would use TCP."""


def severity_of_missing(inventory: Inventory) -> Severity:
    """How bad it is that RDMA will not work."""
    return ERROR if inventory.rdma == "required" else WARNING


def rdma_ports(inventory: Inventory, facts: ClusterFacts) -> Mapping[str, tuple[RdmaPort, ...]]:
    """Nodes with RDMA devices, and their ports; none where RDMA is off."""
    if inventory.rdma == "off":
        return {}
    return {name: node.rdma for name, node in facts.nodes.items() if isinstance(node.rdma, tuple) and node.rdma}


def private_hca(inventory: Inventory, name: str, facts: ClusterFacts, ports: tuple[RdmaPort, ...]) -> RdmaPort | None:
    """The HCA of the private network's interface, where there is one."""
    address = private_address(inventory, name, facts.nodes[name])
    return None if address is None else hca_of(ports, address.interface)
