"""The RoCE port of the private network has the GID that NCCL looks for: version 2, of the node's address."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.address import private_address
from clusterctl.deployment.rdma import chosen_ports
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.rdma import ETHERNET, ROCE_V2
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.rdma import private_hca, rdma_ports
from clusterctl.inventory.model import Inventory

MISSING = Code(
    name="roce-gid-missing",
    severity=WARNING,
    title="A RoCE GID is missing",
    runbook="rdma-devices.md",
    seen="{port} has no RoCE v2 GID of {address} (GIDs: {gids})",
    why="NCCL then picks a GID that the other nodes may not reach: ibv_modify_qp failed, timed out",
    fix="on the node: ip addr show {interface} (the address belongs on the HCA's own interface, not on a bridge above "
    "it); rdma link show {link}",
    note="GIDs are shown as `INDEX: ADDRESS TYPE`.",
)


@rule(Section.RDMA_DEVICES, MISSING)
def roce_gids(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The RoCE port of the private network has the GID that NCCL looks for: version 2, of the node's address."""
    for name, ports in rdma_ports(inventory, facts).items():
        address = private_address(inventory, name, facts.nodes[name])
        own = private_hca(inventory, name, facts, ports)
        if own is None or address is None or own not in chosen_ports(facts.nodes[name], address.interface):
            continue
        if own.link_layer != ETHERNET or any(gid.type == ROCE_V2 and gid.ipv4 == address.address for gid in own.gids):
            continue
        gids = ", ".join(f"{gid.index}: {gid.ipv4 or gid.address} {gid.type}" for gid in own.gids) or "none"
        yield MISSING.found(
            name,
            port=own.name,
            address=address.address,
            gids=gids,
            interface=address.interface,
            link=f"{own.device}/{own.port}",
        )
