"""Every RDMA port is InfiniBand or Ethernet: what else there is has a transport of its own."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.rdma import known_layer, own_choice
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

OTHER = Code(
    name="rdma-link-layer-unknown",
    severity=WARNING,
    title="An RDMA port of another kind",
    runbook="rdma-devices.md",
    seen="{ports}: neither InfiniBand nor Ethernet",
    why="NCCL reaches such a port only through the maker's own plugin; for it clusterctl sets neither NCCL_IB_HCA nor "
    "NCCL_NET, and does not pass /dev/infiniband",
    fix="use an image with the maker's NCCL plugin (EFA: aws-ofi-nccl), and set what it asks for: container.devices "
    "[/dev/infiniband] and container.env NCCL_NET (EFA: AWS Libfabric); to do without: rdma: off",
    note="Ports are shown as `DEVICE:PORT LINK LAYER`. Not where the inventory's `env` has NCCL_IB_HCA or NCCL_NET.",
)


@rule(Section.RDMA_DEVICES, OTHER)
def rdma_link_layer_unknown(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Every RDMA port is InfiniBand or Ethernet: what else there is has a transport of its own."""
    for name, node in facts.nodes.items():
        ports = node.rdma if isinstance(node.rdma, tuple) else ()
        other = [f"{port.name} {port.link_layer or '(no link layer)'}" for port in ports if not known_layer(port)]
        if other and inventory.rdma != "off" and not own_choice(inventory, name):
            yield OTHER.found(name, ports=", ".join(other))
