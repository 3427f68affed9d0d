"""Every other node is reached by the route that was read, from the private address, through the interface that has it.

An address on lo or a dummy is on no link: the route's interface is the right one (facts/routing.py)."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.way import way_of
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
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
    "specific, or give the route its source: ip route replace ... src {own_address}",
)


@rule(Section.PAIRS, OTHER_INTERFACE)
def pair_route(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """A peer that is reached through another interface, or from another address, than the node's own."""
    seen = tried_pairs(facts)
    if seen is None:
        return
    for (source, target), link in seen.links.items():
        own, route, way = end_of(seen, source), link.route, way_of(inventory, source, facts)
        if route is None or way is None:
            continue
        named = own.interface
        if route.source == own.address and route.interface in way.interfaces:
            if way.on in way.interfaces or not _is_link(facts.nodes[source], way.on):
                continue
            named = way.on
        yield OTHER_INTERFACE.found(
            source,
            target,
            source=source,
            target=target,
            address=end_of(seen, target).address,
            interface=route.interface,
            route_address=route.source,
            own_interface=named,
            own_address=own.address,
        )


def _is_link(node: NodeFacts, interface: str) -> bool:
    """Whether it is a link to somewhere: lo and dummies have no state of their own (`unknown`)."""
    known = node.system.interfaces
    return isinstance(known, tuple) and any(each.name == interface and each.state == "up" for each in known)
