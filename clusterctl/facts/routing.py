"""How a node's kernel sends to the other nodes, from `ip route get`, `ip route show` and `ip rule`. Pure.

The kernel's own answer counts, where the other node's address was declared and it could be asked for. For the others
the rules and routes that were read are followed as the kernel follows them: the rules in order, the longest prefix,
the lowest metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise

from clusterctl.facts import parse
from clusterctl.facts.fact import Fact
from clusterctl.inventory.model import Inventory

NOWHERE = ("unreachable", "blackhole", "prohibit")
"""Kinds of routes that lead nowhere on purpose."""

KINDS = ("unicast", "local", "broadcast", "multicast", "anycast", "throw", *NOWHERE)

EVERYTHING = IPv4Network("0.0.0.0/0")

NOT_DECLARED = "-"

ASKED_FOR = 64
"""Nodes that the kernel is asked about, two processes each; the way to further ones is read from its tables."""


@dataclass(frozen=True)
class Answer:
    """How one node is reached. Several interfaces: the kernel spreads connections over them (ECMP)."""

    interfaces: tuple[str, ...]
    reason: str = ""
    """Why there is no interface."""


@dataclass(frozen=True)
class TableRoute:
    """One route of one table."""

    kind: str
    destination: IPv4Network
    interfaces: tuple[str, ...]
    table: str
    metric: int


@dataclass(frozen=True)
class Rule:
    """One rule of policy routing: packets between these look into that table."""

    source: IPv4Network
    destination: IPv4Network
    table: str
    shortest: int = -1
    """Routes with a prefix of at most this length do not count (suppress_prefixlength)."""
    kind: str = "unicast"


MAIN_ONLY = (Rule(EVERYTHING, EVERYTHING, "local"), Rule(EVERYTHING, EVERYTHING, "main"))


@dataclass(frozen=True)
class Routing:
    """What was read on one node."""

    answers: Mapping[IPv4Address, Answer]
    rules: tuple[Rule, ...]
    routes: tuple[TableRoute, ...]

    def to(self, peer: IPv4Address, source: IPv4Address) -> Answer | None:
        """How packets from `source` go to `peer`; None where nothing was read that tells, or it is this very node."""
        if peer in self.answers:
            return self.answers[peer]
        for rule in self.rules:
            if source not in rule.source or peer not in rule.destination:
                continue
            if rule.kind in NOWHERE:
                return Answer((), f"a rule says {rule.kind}")
            if (route := self._longest(rule, peer)) is None or route.kind == "throw":
                continue
            if route.kind in NOWHERE:
                return Answer((), f"the route to {route.destination} says {route.kind}")
            return Answer(route.interfaces) if route.kind == "unicast" and route.interfaces else None
        return None

    def _longest(self, rule: Rule, peer: IPv4Address) -> TableRoute | None:
        """The route of the rule's table with the longest prefix."""
        for length, networks in self._tables.get(rule.table, {}).items():
            route = networks.get(int(peer) >> (32 - length))
            if route is not None and length > rule.shortest:
                return route
        return None

    @cached_property
    def _tables(self) -> Mapping[str, Mapping[int, Mapping[int, TableRoute]]]:
        """Table → length of the prefix, the longest first → prefix → its route of the lowest metric."""
        found: dict[str, dict[int, dict[int, TableRoute]]] = {}
        for route in sorted(self.routes, key=lambda each: (-each.destination.prefixlen, -each.metric)):
            length = route.destination.prefixlen
            prefix = int(route.destination.network_address) >> (32 - length)
            found.setdefault(route.table, {}).setdefault(length, {})[prefix] = route
        return found


def asked(inventory: Inventory, name: str) -> tuple[str, ...]:
    """What the probe of that node is told to ask for: the network, the node's own address, and those of the others, as
    far as they are declared. Nothing for a single node: it has nowhere to send to."""
    if len(inventory.nodes) < 2:
        return ()
    addresses = {node.name: node.address for node in inventory.nodes}
    own = addresses.pop(name)
    peers = [str(address) for address in addresses.values() if address is not None]
    return (str(inventory.cidr or NOT_DECLARED), str(own or NOT_DECLARED), *peers[:ASKED_FOR])


def routing(found: Mapping[str, parse.Section]) -> Fact[Routing]:
    """From the section of the same name. A line that cannot be read is left out: the others count."""
    output = parse.text(found, "routes_to_peers")
    if not isinstance(output, str):
        return output
    lines = [line.split("\t", 1) for line in output.splitlines() if "\t" in line]
    rules = tuple(rule for tag, rest in lines if tag == "rule" and (rule := _rule(rest)) is not None)
    routes = (route for tag, rest in lines if tag == "route" and (route := _route(rest)) is not None)
    return Routing(_answers(lines), rules or MAIN_ONLY, tuple(dict.fromkeys(routes)))


def _answers(lines: Sequence[Sequence[str]]) -> Mapping[IPv4Address, Answer]:
    said: dict[str, dict[IPv4Address, str]] = {"get": {}, "match": {}}
    for tag, rest in lines:
        asked_for, _, answer = rest.partition("\t")
        if tag in said and answer and (address := _address(asked_for)) is not None:
            said[tag][address] = answer
    found = {}
    for peer, text in said["get"].items():
        route = _route(text)
        if route is None:
            found[peer] = Answer((), text.strip()[:120])
        elif route.kind in NOWHERE:
            found[peer] = Answer((), f"the route says {route.kind}")
        elif route.kind == "unicast":
            behind = _route(said["match"].get(peer, ""))
            hops = behind.interfaces if behind is not None else ()
            found[peer] = Answer(hops if set(route.interfaces) <= set(hops) else route.interfaces)
    return found


def _route(line: str) -> TableRoute | None:
    """`[KIND] DESTINATION [via GATEWAY] dev NAME [table T] [metric N] …`, or with several `\\ nexthop via … dev …`."""
    words = line.replace("\\", " ").split()
    kind = words.pop(0) if words and words[0] in KINDS else "unicast"
    destination = _network(words[0]) if words else None
    if destination is None:
        return None
    interfaces = tuple(dict.fromkeys(_interfaces(words[1:])))
    if kind == "unicast" and not interfaces:
        return None
    named = dict(_pairs(words[1:], ("table", "metric")))
    metric = named.get("metric", "")
    return TableRoute(
        kind=kind,
        destination=destination,
        interfaces=interfaces,
        table=named.get("table", "main"),
        metric=int(metric) if metric.isdecimal() else 0,
    )


def _interfaces(words: Sequence[str]) -> Iterator[str]:
    """Of every hop that is not dead: the kernel leaves those of an interface that is down out."""
    hops: list[list[str]] = [[]]
    for word in words:
        if word == "nexthop":
            hops.append([])
        hops[-1].append(word)
    for hop in hops:
        if "dead" not in hop:
            yield from (name for _, name in _pairs(hop, ("dev",)))


def _rule(line: str) -> Rule | None:
    """`32766: from all lookup main`; None for one that asks for what is not known of a connection (a mark, a port)."""
    words = line.partition(":")[2].split()
    said = dict(_pairs(words, ("from", "to", "lookup", "table", "suppress_prefixlength")))
    table = said.get("lookup", said.get("table", ""))
    kind = next((word for word in words if word in NOWHERE), "unicast")
    known = {*said, *said.values(), "proto", "kernel", "static", "zebra", "bgp", "bird", kind}
    source, destination = _network(said.get("from", "all")), _network(said.get("to", "all"))
    if source is None or destination is None or set(words) - known or not (table or kind != "unicast"):
        return None
    shortest = said.get("suppress_prefixlength", "")
    return Rule(source, destination, table, int(shortest) if shortest.isdecimal() else -1, kind)


def _pairs(words: Sequence[str], keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((key, value) for key, value in pairwise(words) if key in keys)


def _network(text: str) -> IPv4Network | None:
    if text in ("default", "all"):
        return EVERYTHING
    try:
        return IPv4Network(text, strict=False)
    except ValueError:
        return None


def _address(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except ValueError:
        return None
