"""By which interfaces a node reaches the others. Pure.

An address says little about an interface: it may be on `lo` (a host that speaks BGP), on a dummy, or on two interfaces.
What counts is the route from it to the other nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from clusterctl.deployment.address import addresses_of, private_address
from clusterctl.deployment.once import once
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.kernel_net import Route
from clusterctl.facts.records import InterfaceAddress
from clusterctl.facts.routing import Answer, Routing
from clusterctl.inventory.model import Inventory

LOOPBACK = "lo"


@dataclass(frozen=True)
class Way:
    """How one node reaches the others."""

    address: IPv4Address
    """Its own, in the private network."""
    on: str
    """The interface that has the address."""
    interfaces: tuple[str, ...]
    """Those through which packets leave for the other nodes, the most important one first. Several: the kernel spreads
    connections over them, or other nodes are reached through other interfaces. `on`, where no route tells."""
    sockets: tuple[str, ...]
    """What Gloo and NCCL are told, which take the interface's first address: of `interfaces` those that have one."""
    peers: Mapping[str, Answer]
    """Every other node whose address and route are known."""

    @property
    def interface(self) -> str:
        """The one, for what takes only one."""
        return self.interfaces[0]

    @property
    def known(self) -> bool:
        """Whether a route told the interfaces."""
        return any(answer.interfaces for answer in self.peers.values())

    @property
    def differs(self) -> bool:
        """Whether other nodes are reached through other interfaces."""
        return len({frozenset(answer.interfaces) for answer in self.peers.values() if answer.interfaces}) > 1


def way_of(inventory: Inventory, name: str, facts: ClusterFacts) -> Way | None:
    """How that node reaches the others; None where its own address is not known."""
    return ways(inventory, facts).get(name)


@once
def ways(inventory: Inventory, facts: ClusterFacts) -> Mapping[str, Way]:
    """Every node that was read and whose address is known, with its way to the others."""
    read = [node.name for node in inventory.nodes if node.name in facts.nodes]
    own = {name: found for name in read if (found := private_address(inventory, name, facts.nodes[name]))}
    # As it was found on the node, else as it is declared.
    addresses = {node.name: own[node.name].address if node.name in own else node.address for node in inventory.nodes}
    return {name: _way(facts.nodes[name], place, addresses) for name, place in own.items()}


def _way(node: NodeFacts, own: InterfaceAddress, addresses: Mapping[str, IPv4Address | None]) -> Way:
    # An address that is this node's, too, is a finding of its own (address-duplicate).
    others = {peer: there for peer, there in addresses.items() if there is not None and there != own.address}
    found = {peer: _answer(node, there, own.address) for peer, there in others.items()}
    peers = {peer: answer for peer, answer in found.items() if answer is not None}
    carriers = [item.interface for item in addresses_of(node) if item.address == own.address] or [own.interface]
    counted = Counter(interface for answer in peers.values() for interface in answer.interfaces)
    on = min(carriers, key=lambda each: (-counted[each], each == LOOPBACK))
    # The interface of the address first, then what leads to most nodes; equal ones in the order in which they were met.
    through = tuple(sorted(counted, key=lambda each: (each != on, -counted[each]))) or (on,)
    return Way(own.address, on, through, _sockets(node, on, through), peers)


def with_lowers(node: NodeFacts, interfaces: Sequence[str]) -> frozenset[str]:
    """The interfaces and those that they stand on: a bond's or bridge's members, a VLAN's link."""
    known = node.system.interfaces
    below = {} if isinstance(known, Unknown) else {each.name: each.lowers for each in known}
    found: set[str] = set()
    left = list(interfaces)
    while left:
        if (each := left.pop()) not in found:
            found.add(each)
            left.extend(below.get(each, ()))
    return frozenset(found)


def _sockets(node: NodeFacts, on: str, through: tuple[str, ...]) -> tuple[str, ...]:
    """Those with an address. Where none has one, `on` itself, if it is a dummy, say: lo's first address is
    127.0.0.1."""
    having = {item.interface for item in addresses_of(node)}
    usable = tuple(each for each in through if each in having)
    return usable or ((on,) if on != LOOPBACK else through)


def _answer(node: NodeFacts, peer: IPv4Address, source: IPv4Address) -> Answer | None:
    if isinstance(node.routing, Routing):
        return node.routing.to(peer, source)
    # Without `ip`: the main table, of which the kernel's own file shows one hop of each route.
    routes = node.system.routes if isinstance(node.system.routes, tuple) else ()
    leading = [route for route in routes if peer in route.destination]
    best = max(leading, key=_precedence, default=None)
    return Answer((best.interface,)) if best is not None else None


def _precedence(route: Route) -> tuple[int, int]:
    return route.destination.prefixlen, -route.metric
