"""The interface that leads to the other nodes has the private address, or another one in the private network."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.address import addresses_of
from clusterctl.deployment.way import ways
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

OTHER = Code(
    name="interface-other-address",
    severity=WARNING,
    title="The interface has another address",
    runbook="addresses.md",
    seen="the other nodes are reached through {interface}, which has {addresses}; {address} is on {on}",
    why="Gloo and NCCL are told an interface and offer its own first address to the other nodes, which must reach it",
    fix="on the node: ip addr add {address}/32 dev {interface} (the address may be on both; where the interface has "
    "others, it must be the first); or let the others have a route to what it has",
)


@rule(Section.ADDRESSES, OTHER)
def interface_address(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The interface that leads to the other nodes has the private address, or another one in the private network."""
    for name, way in ways(inventory, facts).items():
        if not way.known or way.on in way.sockets:
            continue
        interface = way.sockets[0]
        own = [item.address for item in addresses_of(facts.nodes[name]) if item.interface == interface]
        # Gloo and NCCL take the first.
        if own and (own[0] == way.address or (inventory.cidr is not None and own[0] in inventory.cidr)):
            continue
        addresses = ", ".join(map(str, own)) or "no IPv4 address"
        yield OTHER.found(name, interface=interface, addresses=addresses, address=way.address, on=way.on)
