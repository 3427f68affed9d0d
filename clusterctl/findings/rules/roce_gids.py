"""The RoCE port of the private network has the GID that NCCL looks for: version 2, of the node's address."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from clusterctl.deployment.address import addresses_of
from clusterctl.deployment.rdma import ports_of_network
from clusterctl.deployment.way import Way, way_of, with_lowers
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.rdma import ETHERNET, ROCE_V2, RdmaPort
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.rdma import rdma_ports
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
    """Each RoCE port that is used has the GID that NCCL looks for: version 2, of its address in the private network."""
    for name in rdma_ports(inventory, facts):
        way = way_of(inventory, name, facts)
        if way is None:
            continue
        for port in ports_of_network(inventory, name, facts).used:
            wanted = _wanted(facts.nodes[name], port, way)
            found = {gid.ipv4 for gid in port.gids if gid.type == ROCE_V2 and gid.ipv4 is not None}
            if port.link_layer != ETHERNET or (found & wanted if wanted else found):
                continue
            gids = ", ".join(f"{gid.index}: {gid.ipv4 or gid.address} {gid.type}" for gid in port.gids) or "none"
            yield MISSING.found(
                name,
                port=port.name,
                address=" or ".join(map(str, sorted(wanted))) or "an IPv4 address",
                gids=gids,
                interface=next((each for each in port.interfaces), way.interface),
                link=f"{port.device}/{port.port}",
            )


def _wanted(node: NodeFacts, port: RdmaPort, way: Way) -> frozenset[IPv4Address]:
    """The node's address, where this port carries it, else those of its own interfaces: another rail, or a port beneath
    an address on lo. Empty: they are not known."""
    if not with_lowers(node, [way.on]).isdisjoint(port.interfaces):
        return frozenset({way.address})
    return frozenset(item.address for item in addresses_of(node) if item.interface in port.interfaces)
