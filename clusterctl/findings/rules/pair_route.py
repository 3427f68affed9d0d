"""Every other node is reached through the node's own interface in the private network, and from its address there."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.pairs import end_of, tried_pairs
from clusterctl.inventory.model import Inventory

OTHER_INTERFACE = Code(
    name="route-other-interface",
    severity=WARNING,
    title="Reached through another interface",
    runbook="network.md",
    seen="{source} -> {target}: {address} is reached through {interface} (from {route_address}), not through "
    "{own_interface} (from {own_address})",
    why="NCCL and Gloo are told the interface of network.cidr; answers take another way than questions",
    fix="on {source}: ip route get {address}; ip route show; remove the route or the second address that is more "
    "specific",
)


@rule(Section.PAIRS, OTHER_INTERFACE)
def pair_route(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """A peer that is reached through another interface, or from another address, than the node's own."""
    seen = tried_pairs(facts)
    if seen is None:
        return
    for (source, target), link in seen.links.items():
        own, route = end_of(seen, source), link.route
        if route is None or (route.interface == own.interface and route.source == own.address):
            continue
        yield OTHER_INTERFACE.found(
            source,
            target,
            source=source,
            target=target,
            address=end_of(seen, target).address,
            interface=route.interface,
            route_address=route.source,
            own_interface=own.interface,
            own_address=own.address,
        )
