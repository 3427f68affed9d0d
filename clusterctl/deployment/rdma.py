"""Which RDMA ports NCCL shall use on a node, why not the others, and the environment that says so. Pure.

Without NCCL_IB_HCA, NCCL takes every ACTIVE port: InfiniBand beside Ethernet, storage and management beside the fabric.
A port is used because something says that it belongs to the private network, never because it is there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from clusterctl.deployment.address import addresses_of
from clusterctl.deployment.once import once
from clusterctl.deployment.way import Way, way_of, with_lowers
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.rdma import ETHERNET, INFINIBAND, RdmaPort
from clusterctl.inventory.model import Inventory, RdmaMode

OWN_CHOICE = ("NCCL_IB_HCA", "NCCL_NET")
"""Variables by which the operator decides himself."""


NOT_THIS = "^"


@dataclass(frozen=True)
class LeftOut:
    """A port that NCCL shall not use."""

    port: RdmaPort
    reason: str

    @property
    def text(self) -> str:
        """`mlx5_10:1 (it manages NVSwitches)`."""
        return f"{self.port.name} ({self.reason})"


@dataclass(frozen=True)
class Ports:
    """The RDMA ports of a node."""

    used: tuple[RdmaPort, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    @property
    def hcas(self) -> tuple[str, ...]:
        """For `nccl_environment`: the names of those that are used, or those to keep NCCL from, each after a ^."""
        if self.used:
            return tuple(port.name for port in self.used)
        # NCCL would take them by itself. Another link layer it does not look at.
        taken = [each.port for each in self.left_out if each.port.active and known_layer(each.port)]
        return tuple(f"{NOT_THIS}{port.name}" for port in taken)


def known_layer(port: RdmaPort) -> bool:
    """Whether it is InfiniBand or Ethernet, which is what NCCL's own transport speaks."""
    return port.link_layer in (INFINIBAND, ETHERNET)


def unfit(port: RdmaPort) -> str | None:
    """Why NCCL cannot use a port, whatever it is connected to; None where it can."""
    if not known_layer(port):
        return f"its link layer {port.link_layer or '(none)'} is not one that NCCL's own transport knows"
    if port.nvswitch:
        return "it manages NVSwitches"
    if port.rnic:
        return "it speaks iWARP, which NCCL does not"
    return "RDMA in software, slower than TCP" if port.software else None


def own_choice(inventory: Inventory, name: str) -> bool:
    """Whether the inventory's `env` says what NCCL shall use on that node."""
    own = next(node.env for node in inventory.nodes if node.name == name)
    return any(variable in {**inventory.container.env, **own} for variable in OWN_CHOICE)


def devices_passed(mode: RdmaMode, node: NodeFacts) -> bool:
    """Whether /dev/infiniband is passed to the container. An empty one is none: the engine refuses to pass a directory
    without devices. Nor one whose devices are all of no use to NCCL: another transport (EFA) is disturbed by it."""
    if mode == "off" or not isinstance(node.infiniband, tuple) or not node.infiniband:
        return False
    ports = node.rdma if isinstance(node.rdma, tuple) else ()
    return not ports or any(unfit(port) is None for port in ports)


def ports_of_network(inventory: Inventory, name: str, facts: ClusterFacts) -> Ports:
    """That node's ports that belong to the private network, and all others with the reason.

    A port belongs to it by the route to the other nodes, by an address in network.cidr, or by its fabric: an
    InfiniBand subnet, or an Ethernet network, that other nodes have a port in. Of those of one link layer the fastest
    are used, all of them: slower ones are for storage or management.
    """
    return _all_ports(inventory, facts)[name]


@once
def _all_ports(inventory: Inventory, facts: ClusterFacts) -> Mapping[str, Ports]:
    return {name: _ports(inventory, name, facts) for name in facts.nodes}


def _ports(inventory: Inventory, name: str, facts: ClusterFacts) -> Ports:
    node = facts.nodes[name]
    way = way_of(inventory, name, facts)
    if not isinstance(node.rdma, tuple) or way is None:
        return Ports()
    belongs = _Evidence(inventory, name, facts, way)
    candidates: dict[str, list[RdmaPort]] = {"network": [], "fabric": []}
    reasons: dict[str, str] = {}
    for port in node.rdma:
        reason = unfit(port) or (None if port.active else f"{port.state}, not ACTIVE")
        if reason is None and belongs.to_network(port):
            candidates["network"].append(port)
        elif reason is None:
            reason = belongs.not_to_fabric(port)
            if reason is None:
                candidates["fabric"].append(port)
        if reason is not None:
            reasons[port.name] = reason
    used = _chosen(candidates["network"], candidates["fabric"])
    for port in (*candidates["network"], *candidates["fabric"]):
        if port not in used:
            reasons[port.name] = _beside(port, used)
    return Ports(used, tuple(LeftOut(port, reasons[port.name]) for port in node.rdma if port.name in reasons))


def _chosen(network: Sequence[RdmaPort], fabric: Sequence[RdmaPort]) -> tuple[RdmaPort, ...]:
    """Ports of one link layer. What the network itself is on comes first; an InfiniBand fabric beside an Ethernet
    network is used where it is faster, since that is what it was bought for."""
    by_address = {layer: _fastest(network, layer) for layer in (INFINIBAND, ETHERNET)}
    if by_address[INFINIBAND]:
        return _fastest([*network, *fabric], INFINIBAND)
    by_fabric = {layer: _fastest(fabric, layer) for layer in (INFINIBAND, ETHERNET)}
    if _rate(by_fabric[INFINIBAND]) > _rate(by_address[ETHERNET]) or not by_address[ETHERNET]:
        return by_fabric[INFINIBAND] or by_fabric[ETHERNET]
    return by_address[ETHERNET]


def _fastest(ports: Sequence[RdmaPort], layer: str) -> tuple[RdmaPort, ...]:
    own = [port for port in ports if port.link_layer == layer]
    best = max((port.gbit_per_s for port in own), default=0.0)
    return tuple(port for port in own if port.gbit_per_s == best)


def _rate(ports: Sequence[RdmaPort]) -> float:
    return sum(port.gbit_per_s for port in ports)


def _beside(port: RdmaPort, used: Sequence[RdmaPort]) -> str:
    if used[0].link_layer != port.link_layer:
        return f"{port.link_layer}, and {used[0].link_layer} is used"
    if port.gbit_per_s < used[0].gbit_per_s:
        return f"slower: {port.rate}"
    return "its network is not the private one, which has ports of its own"


@dataclass(frozen=True)
class _Fabrics:
    """Which nodes have an ACTIVE port in what. Only of nodes that were read: what is not known speaks neither for nor
    against."""

    read: frozenset[str]
    subnets: Mapping[object, frozenset[str]]
    """InfiniBand subnet → nodes."""
    lids: Mapping[object, frozenset[str]]
    """Port's name, LID and subnet → nodes."""
    networks: Mapping[object, frozenset[str]]
    """Network of an Ethernet port → nodes."""


@once
def _fabrics(_: Inventory, facts: ClusterFacts) -> _Fabrics:
    subnets, lids, networks = (defaultdict[object, set[str]](set) for _ in range(3))
    for name, node in facts.nodes.items():
        for port in _active(node):
            if port.subnet is not None:
                subnets[port.subnet].add(name)
                lids[port.name, port.lid, port.subnet].add(name)
            if port.link_layer == ETHERNET:
                for network in _networks(node, port):
                    networks[network].add(name)
    known = frozenset(name for name, node in facts.nodes.items() if not isinstance(node.rdma, Unknown))
    return _Fabrics(
        known, *({key: frozenset(names) for key, names in each.items()} for each in (subnets, lids, networks))
    )


class _Evidence:
    """What says that a port of one node belongs to the private network."""

    def __init__(self, inventory: Inventory, name: str, facts: ClusterFacts, way: Way) -> None:
        self._cidr = inventory.cidr
        self._alone = len(inventory.nodes) < 2
        self._name, self._node = name, facts.nodes[name]
        self._fabrics = _fabrics(inventory, facts)
        self._any_other = bool(self._fabrics.read - {name})
        self._carriers = with_lowers(self._node, way.interfaces)
        self._exact = frozenset(way.interfaces)
        self._has_exact = any(self._under_route(port) for port in _active(self._node))
        self._foreign = {port.image_guid for port in _active(self._node) if port.image_guid and self._lid_twice(port)}
        self._uplinks = with_lowers(self._node, sorted(_default_interfaces(self._node) - self._exact))

    def to_network(self, port: RdmaPort) -> bool:
        """By the route to the other nodes, or by an address in the private network."""
        if self._under_route(port) or (not self._has_exact and not self._carriers.isdisjoint(port.interfaces)):
            return True
        cidr = self._cidr
        own = (item.address for item in addresses_of(self._node) if item.interface in port.interfaces)
        return cidr is not None and any(address in cidr for address in own)

    def not_to_fabric(self, port: RdmaPort) -> str | None:
        """Why its fabric is not the private network's; None where it is."""
        if port.virtual_function:
            return "a virtual function, beside its own adapter"
        if self._alone:
            return None
        return self._other_subnet(port) if port.link_layer == INFINIBAND else self._other_network(port)

    def _under_route(self, port: RdmaPort) -> bool:
        """Whether its own interface is the route's. A GID's is the one in use (a bond, a VLAN)."""
        return not self._exact.isdisjoint(port.interfaces)

    def _other_subnet(self, port: RdmaPort) -> str | None:
        if port.subnet is None:
            return "nothing says which InfiniBand subnet it is in, and it has no address in the private network"
        if self._lid_twice(port) or port.image_guid in self._foreign:
            return f"its subnet is this node's own: its LID {port.lid} is another node's, too (NVSwitches?)"
        sharing = self._others(self._fabrics.subnets, port.subnet)
        return None if sharing or not self._any_other else "no other node has a port in its InfiniBand subnet"

    def _lid_twice(self, port: RdmaPort) -> bool:
        """Whether the port of the same name has the same LID on another node: then they are not in one subnet, whatever
        else is equal. Not any port: one that manages NVSwitches there may have a LID that the fabric has here."""
        return port.lid is not None and self._others(self._fabrics.lids, (port.name, port.lid, port.subnet))

    def _other_network(self, port: RdmaPort) -> str | None:
        networks = _networks(self._node, port)
        outside = f"its network ({', '.join(map(str, networks)) or 'none'}) is not the private one"
        if not self._uplinks.isdisjoint(port.interfaces) or not networks:
            return outside
        shared = any(self._others(self._fabrics.networks, network) for network in networks)
        return None if shared or not self._any_other else f"{outside}, and no other node has a port in it"

    def _others(self, having: Mapping[object, frozenset[str]], key: object) -> bool:
        return bool(having.get(key, frozenset()) - {self._name})


def _active(node: NodeFacts) -> Iterator[RdmaPort]:
    """The node's ports that NCCL could use."""
    ports = node.rdma if isinstance(node.rdma, tuple) else ()
    return (port for port in ports if port.active and unfit(port) is None)


def _networks(node: NodeFacts, port: RdmaPort) -> list[IPv4Network]:
    return [item.network for item in addresses_of(node) if item.interface in port.interfaces]


def _default_interfaces(node: NodeFacts) -> frozenset[str]:
    """Those of the default routes: by them the machine reaches the world, and an operator the machine."""
    routes = node.system.routes if isinstance(node.system.routes, tuple) else ()
    return frozenset(route.interface for route in routes if route.destination.prefixlen == 0)


def nccl_environment(mode: RdmaMode, hcas: Sequence[str]) -> Mapping[str, str]:
    """NCCL's variables for RDMA. Defaults: what the inventory's own `env` says wins, for instance another NCCL_NET.

    NCCL_IB_GID_INDEX stays unset: from 2.21 on NCCL finds the right one by itself, and a fixed one is a frequent fault
    (F32).
    """
    if mode == "off":
        return {"NCCL_IB_DISABLE": "1"}
    used = [hca for hca in hcas if not hca.startswith(NOT_THIS)]
    left = [hca.removeprefix(NOT_THIS) for hca in hcas if hca.startswith(NOT_THIS)]
    # `=`: exactly these, as a name alone is a prefix (mlx5_1 would match mlx5_10). `^=`: all but these.
    if used:
        # Without NCCL_NET, NCCL falls back to TCP and says so only at INFO (F23).
        return {"NCCL_IB_HCA": f"={','.join(used)}", **({"NCCL_NET": "IB"} if mode == "required" else {})}
    return {"NCCL_IB_HCA": f"^={','.join(left)}"} if left else {}
