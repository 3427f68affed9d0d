"""Every node has a route from its private address to each other node."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.way import LOOPBACK, ways
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import ERROR, WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

MISSING = Code(
    name="route-missing",
    severity=ERROR,
    title="No route to another node",
    runbook="addresses.md",
    seen="no route from {address} to {peers}: {reason}",
    why="nothing that is sent to them leaves the node",
    fix="on the node: ip route get PEER from {address}; ip rule; ip route show table all; with BGP: has the session "
    "come up?",
    note="The reason is what `ip route get` answers.",
)
NOT_KNOWN = Code(
    name="route-unknown",
    severity=WARNING,
    title="The interface is not known",
    runbook="addresses.md",
    seen="{address} is on {interface}, and through which interface the other nodes are reached could not be read",
    why="Gloo and NCCL connect through an interface, and lo leads to no other node",
    fix="install iproute2 on the node, and set `address` for every node in the inventory; on the node: ip route get "
    "PEER from {address}",
)


@rule(Section.ADDRESSES, MISSING, NOT_KNOWN)
def route_missing(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Every node has a route from its private address to each other node."""
    for name, way in ways(inventory, facts).items():
        lost = {peer: answer.reason for peer, answer in way.peers.items() if not answer.interfaces}
        if lost:
            reasons = "; ".join(dict.fromkeys(lost.values()))
            yield MISSING.found(name, address=way.address, peers=", ".join(lost), reason=reasons)
        elif way.on == LOOPBACK and not way.known and len(inventory.nodes) > 1:
            yield NOT_KNOWN.found(name, address=way.address, interface=way.on)
