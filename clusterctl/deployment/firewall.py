"""Rules for the nodes' own firewalls, for a person to read and apply. Pure: nothing here changes anything.

What must pass between the nodes, and must not from elsewhere: Ray's pinned ports, and the ports that the kernel chooses
for NCCL, Gloo, vLLM's queues and PyTorch's TCPStore, which listens on all interfaces whatever it is told (F67).
The rules leave alone what is not ours: other services stay as open, or as closed, as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Literal

from clusterctl.deployment.way import LOOPBACK, way_of
from clusterctl.errors import UsageError
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.inventory.model import Inventory
from clusterctl.modes.all import listens_of, possible_modes
from clusterctl.modes.mode import Mode

EPHEMERAL = (32768, 60999)
"""Ports that Linux gives to who asks for any: the default of net.ipv4.ip_local_port_range."""


ROCE_PORT = 4791
"""RoCE v2 (InfiniBand architecture, annex A17)."""


SSH_PORT = 22


ANYWHERE = IPv4Network("0.0.0.0/0")


Span = tuple[int, int]
"""First and last port."""


@dataclass(frozen=True)
class Address:
    """A node's address in the private network; the interfaces through which it reaches the other nodes, when it was
    asked."""

    address: IPv4Address
    interfaces: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """One rule. The first that matches decides, and what none matches stays as it is."""

    action: Literal["accept", "drop"]
    protocol: Literal["tcp", "udp"]
    ports: tuple[Span, ...]
    """Empty: all ports."""
    sources: tuple[IPv4Network, ...]
    """Empty: everywhere, IPv6 included."""
    interface: str | None
    why: str


@dataclass(frozen=True)
class NodeRules:
    """Everything for one node, in order."""

    node: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Allowed:
    """Who may reach what, beside the nodes."""

    clients: tuple[IPv4Network, ...]
    """The API."""
    scrapers: tuple[IPv4Network, ...]
    """The metrics: those of the agents, and vLLM's own, which are on the API's port."""


def addresses(inventory: Inventory, facts: ClusterFacts | None) -> Mapping[str, Address]:
    """Each node's private address: as found on it, else as declared. Raises UsageError for nodes that have neither."""
    found: dict[str, Address] = {}
    for node in inventory.nodes:
        way = way_of(inventory, node.name, facts) if facts is not None else None
        if way is not None:
            # On lo, with no route read, nothing is known of where the others' packets come in.
            found[node.name] = Address(way.address, way.interfaces if way.known or way.on != LOOPBACK else ())
        elif node.address is not None:
            found[node.name] = Address(node.address)
    if missing := [node.name for node in inventory.nodes if node.name not in found]:
        raise UsageError(
            f"the private address of {', '.join(missing)} is not known: it is neither declared nor could it be read",
            hint="set `address` for these nodes in the inventory; clusterctl check says why they cannot be read",
        )
    return found


def cluster_rules(
    inventory: Inventory,
    places: Mapping[str, Address],
    clients: Sequence[IPv4Network],
    scrapers: Sequence[IPv4Network] = (),
) -> tuple[NodeRules, ...]:
    """What each node's firewall should do, in inventory order. `clients`: who may reach the API beside the nodes;
    `scrapers`: who may read the metrics, the API's own among them."""
    allowed = Allowed(tuple(clients), tuple(scrapers))
    return tuple(NodeRules(name, tuple(_rules(inventory, name, places, allowed))) for name in places)


def _rules(inventory: Inventory, name: str, places: Mapping[str, Address], allowed: Allowed) -> Iterator[Rule]:
    own, head = places[name], name == inventory.head_name
    peers = tuple(IPv4Network(place.address) for other, place in places.items() if other != name)
    node = next(node for node in inventory.nodes if node.name == name)
    ssh = node.port or inventory.ssh.port or SSH_PORT
    api = (inventory.serve.port, inventory.serve.port)
    closed = _ours(inventory, head=head)
    possible = possible_modes(inventory)
    yield Rule("accept", "tcp", ((ssh, ssh),), (), None, "SSH, before anything is refused")
    for interface in own.interfaces or (None,):
        if peers:
            yield Rule("accept", "tcp", (), peers, interface, f"{_traffic(possible)} between the nodes")
        if peers and inventory.rdma != "off":
            yield Rule("accept", "udp", ((ROCE_PORT, ROCE_PORT),), peers, interface, "RoCE v2 between the nodes")
    if head and allowed.clients:
        yield Rule("accept", "tcp", (api,), allowed.clients, None, "the API, for clients")
    if allowed.scrapers and (metrics := _metrics(inventory, api, head=head)):
        yield Rule("accept", "tcp", metrics, allowed.scrapers, None, "metrics, for Prometheus")
    owners = ", ".join(mode.own_ports for mode in possible)
    metrics_too = ", that of the metrics" if inventory.metrics_port is not None else ""
    why = f"{owners}, the API's{metrics_too}, and those that the kernel chooses{_everywhere(inventory, head=head)}"
    yield Rule("drop", "tcp", closed, (), None, why)
    if inventory.rdma != "off":
        yield Rule("drop", "udp", ((ROCE_PORT, ROCE_PORT),), (), None, "RoCE v2 from elsewhere")


def _metrics(inventory: Inventory, api: Span, *, head: bool) -> tuple[Span, ...]:
    """Where Prometheus asks a node."""
    port = inventory.metrics_port
    return (*([api] if head else []), *([(port, port)] if port is not None else []))


def _traffic(possible: Sequence[Mode]) -> str:
    """What passes between the nodes, in whichever of these modes."""
    return ", ".join(dict.fromkeys(name for mode in possible for name in mode.traffic))


def _everywhere(inventory: Inventory, *, head: bool) -> str:
    """What is listened on on all addresses, whatever the inventory says: these rules are all that closes it."""
    fields = [field for field in listens_of(inventory) if field.everywhere and head]
    told = [f"{'.'.join(field.path)} {field.span(inventory)[0]} listens on ALL addresses" for field in fields]
    return "".join(f"; {text}" for text in told)


def _ours(inventory: Inventory, *, head: bool) -> tuple[Span, ...]:
    """Ports of ours on a node, adjacent ones joined. A worker does without the head's, and they are closed there, too:
    who becomes the head tomorrow needs no other rules for it."""
    fields = [field for field in listens_of(inventory) if head or not (field.for_clients and field.head_only)]
    spans = [*(field.span(inventory) for field in fields), EPHEMERAL]
    joined: list[Span] = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return tuple(joined)


# As each firewall wants it.


def text(node: NodeRules) -> Iterator[str]:
    """For a person."""
    yield f"{node.node}:"
    for rule in node.rules:
        where = f" on {rule.interface}" if rule.interface else ""
        source = ", ".join(map(_plain, rule.sources)) or ("anywhere" if rule.action == "accept" else "anywhere else")
        ports = f" {_spans(rule.ports, '-', ', ')}" if rule.ports else ", all ports"
        yield f"  {rule.action:<6} {rule.protocol}{ports} from {source}{where}: {rule.why}"
    yield "  what none of these names stays as it is"


def nft(node: NodeRules) -> Iterator[str]:
    """A table of its own for `nft -f`, replaced as a whole. It only takes away: another table's drops stay."""
    yield f"# {node.node}: nft -f THIS_FILE, and keep it where the machine loads it at boot (/etc/nftables.conf)."
    yield "# Another table that drops what is accepted here goes on dropping it: it must let the same through."
    yield "table inet clusterctl"
    yield "delete table inet clusterctl"
    yield "table inet clusterctl {"
    yield "  chain input {"
    yield "    type filter hook input priority filter - 5; policy accept;"
    yield "    ct state established,related accept"
    yield '    iifname "lo" accept'
    for rule in node.rules:
        interface = [f'iifname "{rule.interface}"'] if rule.interface else []
        sources = [f"ip saddr {{ {', '.join(map(_plain, rule.sources))} }}"] if rule.sources else []
        ports = f"dport {{ {_spans(rule.ports, '-', ', ')} }}" if rule.ports else ""
        match = f"{rule.protocol} {ports}" if ports else f"meta l4proto {rule.protocol}"
        counter = ["counter"] if rule.action == "drop" else []
        yield f"    {' '.join([*interface, *sources, match, *counter, rule.action])}  # {rule.why}"
    yield "  }"
    yield "}"


def iptables(node: NodeRules) -> Iterator[str]:
    """Commands, in a chain of their own, for IPv4 and IPv6."""
    yield f"# {node.node}: as root. Run again after a change; keep with iptables-save or netfilter-persistent."
    for program in ("iptables", "ip6tables"):
        yield f"{program} -w -N CLUSTERCTL 2>/dev/null || {program} -w -F CLUSTERCTL"
        yield f"{program} -w -A CLUSTERCTL -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"
        yield f"{program} -w -A CLUSTERCTL -i lo -j RETURN"
        for rule in node.rules:
            yield from _iptables_rule(program, rule)
        # Inserted last, when the chain is whole.
        yield f"{program} -w -C INPUT -j CLUSTERCTL 2>/dev/null || {program} -w -I INPUT 1 -j CLUSTERCTL"


def _iptables_rule(program: str, rule: Rule) -> Iterator[str]:
    if program == "ip6tables" and rule.sources:
        return  # the private network is IPv4
    interface = f" -i {rule.interface}" if rule.interface else ""
    ports = f" -m multiport --dports {_spans(rule.ports, ':', ',')}" if rule.ports else ""
    target = "ACCEPT" if rule.action == "accept" else "DROP"
    for source in rule.sources or (None,):
        origin = f" -s {_plain(source)}" if source is not None else ""
        yield f"{program} -w -A CLUSTERCTL{interface}{origin} -p {rule.protocol}{ports} -j {target}"


def ufw(node: NodeRules) -> Iterator[str]:
    """Commands for ufw, in the order in which it looks at them."""
    yield f"# {node.node}: as root, then `ufw enable` where it is not active. ufw takes the first rule that matches:"
    yield "# rules that are there already stand before these (`ufw status numbered`)."
    for rule in node.rules:
        action = "allow" if rule.action == "accept" else "deny"
        interface = f" in on {rule.interface}" if rule.interface else ""
        port = f" port {_spans(rule.ports, ':', ',')}" if rule.ports else ""
        for source in rule.sources or ("any",):
            origin = source if isinstance(source, str) else _plain(source)
            yield f"ufw {action}{interface} proto {rule.protocol} from {origin} to any{port} comment 'clusterctl'"


def firewalld(node: NodeRules) -> Iterator[str]:
    """Commands for firewalld: a zone for what comes from the nodes, rich rules in the default zone for the rest."""
    yield f"# {node.node}: as root. firewalld binds a zone to addresses or to an interface: here to addresses."
    zone = "--permanent --zone=clusterctl"
    yield "firewall-cmd --permanent --get-zones | grep -qw clusterctl || firewall-cmd --permanent --new-zone=clusterctl"
    zone_rules = [
        rule
        for rule in node.rules
        if rule.action == "accept" and not (rule.sources and rule.ports and rule.protocol == "tcp")
    ]
    for source in dict.fromkeys(source for rule in zone_rules for source in rule.sources):
        yield f"firewall-cmd {zone} --add-source={_plain(source)}"
    for rule in zone_rules:
        for first, last in rule.ports or ((1, 65535),):
            port = str(first) if first == last else f"{first}-{last}"
            yield f"firewall-cmd {zone} --add-port={port}/{rule.protocol}"
            if not rule.sources:
                yield f"firewall-cmd --permanent --add-port={port}/{rule.protocol}"
    for rule in node.rules:
        if rule not in zone_rules:
            yield from _rich_rules(rule)
    yield "firewall-cmd --reload"


def _rich_rules(rule: Rule) -> Iterator[str]:
    # firewalld looks at `drop` before `accept`, unless priorities say otherwise (1.0 and newer, 0.7 in part).
    priority = -2 if rule.action == "accept" else -1
    for source in rule.sources or (None,):
        origin = f' family="ipv4" source address="{_plain(source)}"' if source is not None else ""
        for first, last in rule.ports:
            port = str(first) if first == last else f"{first}-{last}"
            ported = f'port port="{port}" protocol="{rule.protocol}"'
            written = f'rule priority="{priority}"{origin} {ported} {rule.action}'
            yield f"firewall-cmd --permanent --add-rich-rule='{written}'"


def _spans(spans: Sequence[Span], dash: str, comma: str) -> str:
    return comma.join(str(first) if first == last else f"{first}{dash}{last}" for first, last in spans)


def _plain(network: IPv4Network) -> str:
    """A single address without /32."""
    return str(network.network_address) if network.prefixlen == 32 else str(network)


FORMATS: Mapping[str, Callable[[NodeRules], Iterator[str]]] = {
    "text": text,
    "nft": nft,
    "ufw": ufw,
    "firewalld": firewalld,
    "iptables": iptables,
}
"""Name of a firewall → how its rules are written."""
