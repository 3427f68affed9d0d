"""Which of the networks that all nodes share shall carry their traffic: the fastest fabric first. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from clusterctl.deployment.address import addresses_of
from clusterctl.deployment.rdma import unfit
from clusterctl.deployment.way import with_lowers
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.records import InterfaceAddress
from clusterctl.inventory.rules.network import is_private
from clusterctl.inventory.rules.placeholders import PLACEHOLDER
from clusterctl.proposal.choice import Choice, Rejected, listed

INSIDE_A_NODE = ("lo", "docker", "br-", "veth", "virbr", "cni", "flannel", "cali", "lxc", "lxdbr", "podman", "kube")
"""Beginnings of interfaces that lead to containers and virtual machines of the node itself."""
WHOLE_ADDRESS = 32
"""Prefix of an address that is in no network."""
NO_LINK = ("down", "lowerlayerdown", "notpresent")
"""What the kernel calls the state of an interface that carries nothing (operstate)."""
TUNNELS = ("tun", "tap", "wg", "tailscale", "zt", "ppp")
"""Those of overlays: they lead to the others, over another network."""


@dataclass(frozen=True)
class Shared:
    """A network in which every node that was read has one address of its own."""

    network: IPv4Network
    addresses: Mapping[str, InterfaceAddress]
    """Node → its address there."""
    rdma_gbit: float
    """Of the RDMA ports on it, of the node that has least; 0: not every node has one."""
    speed_mbps: int
    """Of the slowest node's interface; 0: not known."""
    management: str | None
    """Why it is the one by which the machines are managed; None where it is not."""
    tunnel: bool
    down: tuple[str, ...]
    """Nodes on which its interface has no link."""

    @property
    def text(self) -> str:
        """`ib0, RDMA 400 Gbit/s`."""
        interfaces = sorted({item.interface for item in self.addresses.values()})
        speed = f"{self.speed_mbps / 1000:g} Gbit/s" if self.speed_mbps else "speed not known"
        fabric = f"RDMA {self.rdma_gbit:g} Gbit/s" if self.rdma_gbit else speed
        return f"{listed(interfaces)}, {fabric}{', a tunnel' if self.tunnel else ''}"


def shared_networks(facts: ClusterFacts, hosts: Mapping[str, str]) -> tuple[Shared, ...]:
    """The best first. `hosts`: node → where SSH connects to."""
    found: dict[IPv4Network, dict[str, list[InterfaceAddress]]] = defaultdict(lambda: defaultdict(list))
    for name, node in facts.nodes.items():
        for item in addresses_of(node):
            if not item.interface.startswith(INSIDE_A_NODE) and item.prefix < WHOLE_ADDRESS:
                found[item.network][name].append(item)
    shared = [
        _shared(network, {name: items[0] for name, items in by_node.items()}, facts, hosts)
        for network, by_node in found.items()
        if set(by_node) == set(facts.nodes)
        and all(len(items) == 1 for items in by_node.values())
        and len({items[0].address for items in by_node.values()}) == len(by_node)
    ]
    return tuple(sorted(shared, key=_order))


def _order(shared: Shared) -> tuple[bool, bool, float, int, str]:
    managed = shared.management is not None
    return managed, shared.tunnel, -shared.rdma_gbit, -shared.speed_mbps, str(shared.network)


def _shared(
    network: IPv4Network,
    addresses: Mapping[str, InterfaceAddress],
    facts: ClusterFacts,
    hosts: Mapping[str, str],
) -> Shared:
    interfaces = {name: item.interface for name, item in addresses.items()}
    return Shared(
        network=network,
        addresses=addresses,
        rdma_gbit=min(_rdma_gbit(facts.nodes[name], interface) for name, interface in interfaces.items()),
        speed_mbps=min(_speed(facts.nodes[name], interface) for name, interface in interfaces.items()),
        management=_management(network, interfaces, facts, hosts),
        tunnel=any(interface.startswith(TUNNELS) for interface in interfaces.values()),
        down=tuple(name for name, interface in interfaces.items() if _is_down(facts.nodes[name], interface)),
    )


def _rdma_gbit(node: NodeFacts, interface: str) -> float:
    ports = node.rdma if isinstance(node.rdma, tuple) else ()
    own = with_lowers(node, [interface])
    return sum(port.gbit_per_s for port in ports if port.active and unfit(port) is None and own & {*port.interfaces})


def _speed(node: NodeFacts, interface: str) -> int:
    known = node.system.interfaces if isinstance(node.system.interfaces, tuple) else ()
    return next((each.speed_mbps or 0 for each in known if each.name == interface), 0)


def _is_down(node: NodeFacts, interface: str) -> bool:
    """Whether the kernel says so; `unknown`, as for tunnels, is no "down"."""
    known = node.system.interfaces if isinstance(node.system.interfaces, tuple) else ()
    return any(each.name == interface and each.state in NO_LINK for each in known)


def _management(
    network: IPv4Network, interfaces: Mapping[str, str], facts: ClusterFacts, hosts: Mapping[str, str]
) -> str | None:
    for name, interface in interfaces.items():
        routes = facts.nodes[name].system.routes
        for route in routes if isinstance(routes, tuple) else ():
            if route.destination.prefixlen == 0 and route.interface == interface:
                return "the nodes' default route leads through it"
    return "SSH comes in by it" if any(_is_in(hosts.get(name, ""), network) for name in interfaces) else None


def _is_in(host: str, network: IPv4Network) -> bool:
    try:
        return IPv4Address(host) in network
    except ValueError:
        return False


def network(facts: ClusterFacts, shared: Sequence[Shared]) -> Choice:
    """The first of them with private addresses and a link on every node."""
    unusable = {each.network: problem for each in shared if (problem := _problem(each)) is not None}
    usable = [each for each in shared if each.network not in unusable]
    useless = [
        Rejected(str(each.network), f"{each.text}: {unusable[each.network]}")
        for each in shared
        if each.network in unusable
    ]
    if not usable:
        why = (
            "none of the networks that all nodes share can be used"
            if useless
            else f"no network was found in which each of {listed(list(facts.nodes))} has one address of its own"
        )
        return Choice("network.cidr", PLACEHOLDER, why, tuple(useless))
    best, *rest = usable
    alone = "the only private network that all nodes share" if not rest else "the fastest that all nodes share"
    if rest and best.management is None and all(each.management for each in rest):
        alone = "all nodes share it, and it is not the management network"
    managed = f" (also the management network: {best.management})" if best.management else ""
    rejected = [
        Rejected(str(each.network), f"{each.text}{f': {each.management}' if each.management else ''}") for each in rest
    ]
    return Choice("network.cidr", str(best.network), f"{alone}: {best.text}{managed}", (*rejected, *useless))


def _problem(shared: Shared) -> str | None:
    """Why it cannot carry the traffic; None where it can."""
    if not is_private(shared.network):
        return "its addresses are public"
    return f"no link on {listed(list(shared.down))}" if shared.down else None
