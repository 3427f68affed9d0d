"""The network between the nodes, every pair in both directions. Pure; one small function a rule."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.pairs import End, Pairs
from clusterctl.findings.finding import Finding, Severity
from clusterctl.findings.rules.common import minority
from clusterctl.inventory.model import Inventory
from clusterctl.modes.all import mode_of
from clusterctl.modes.ports import ranges_of, sampled

HIGH_LATENCY_US = 2000.0
"""A round trip that no network inside one building takes. A pipeline stage sends to the next one for every token."""
LATENCY_FACTOR = 5.0
"""A pair whose round trip is so many times the middle one's goes another way than the rest."""
LATENCY_FLOOR_US = 500.0
"""Below it a pair is no outlier, whatever the others take: scheduling alone adds tens of microseconds."""
LOW_THROUGHPUT = 0.5
"""Part of the middle pair's throughput below which a pair is an outlier: half is a link at half speed."""
PAIRS_TO_COMPARE = 6
"""Ordered pairs (three nodes) from which on «the middle one» means something."""


def pairs(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Everything about pairs, when it was asked."""
    seen = facts.deep.pairs if facts.deep is not None else None
    if isinstance(seen, Pairs):
        for rule in (_unknown, _other_machine, _blocked, _mtu, _route, _latency, _throughput):
            yield from rule(inventory, seen)


def _unknown(inventory: Inventory, seen: Pairs) -> Iterator[Finding]:
    """A node whose probe could not be asked: nothing is known about its pairs."""
    for name, end in seen.ends.items():
        if isinstance(end, Unknown):
            yield Finding(
                "pairs-unknown",
                Severity.WARNING,
                (name,),
                f"the network between this node and the others was not tried: {end.reason}",
                "a blocked port shows only when a worker joins, or as a hang (F35, F44, F55)",
                "mend what the reason says, then run clusterctl check again",
            )


def _other_machine(inventory: Inventory, seen: Pairs) -> Iterator[Finding]:
    """A connection to a node's address is answered by something else (F1)."""
    for (source, target), link in seen.links.items():
        others = {outcome.removeprefix("other: ") for outcome in link.ports.values() if outcome.startswith("other: ")}
        if others:
            yield Finding(
                "pair-other-machine",
                Severity.ERROR,
                (source, target),
                f"{source} -> {target}: {_end(seen, target).address} is answered by {', '.join(sorted(others))}",
                "two machines have the address, or a proxy stands between them: ranks would join the wrong node (F1)",
                f"on {source}: arping -c 3 {_end(seen, target).address} (two answers: two machines); give each an "
                "address of its own",
            )


def _blocked(inventory: Inventory, seen: Pairs) -> Iterator[Finding]:
    """Ports that do not pass; one finding for all nodes from which the same ports of a node are out of reach."""
    nothing: dict[str, list[str]] = defaultdict(list)
    some: dict[tuple[str, tuple[tuple[int, str], ...]], list[str]] = defaultdict(list)
    for (source, target), link in seen.links.items():
        shut = {port: outcome for port, outcome in link.ports.items() if _is_shut(outcome)}
        if shut and len(shut) == len(link.ports):
            nothing[target].append(source)
        elif shut:
            # The kernel's choice differs from run to run: which of them it was says nothing.
            some[target, tuple(sorted(shut.items()))].append(source)
    for target, sources in nothing.items():
        outcomes = {outcome for source in sources for outcome in seen.links[source, target].ports.values()}
        yield Finding(
            "pair-unreachable",
            Severity.ERROR,
            (*sources, target),
            f"{_arrow(sources, target)}: no TCP port of {_end(seen, target).address} answers ({_said(outcomes)})",
            "Ray, NCCL and Gloo connect every node with every other one (F26, F35, F44)",
            f"on {sources[0]}: ip route get {_end(seen, target).address}; then look for a firewall: "
            f"{_open_ports(inventory, target)}",
        )
    for (target, shut_ports), sources in some.items():
        yield _blocked_ports(inventory, seen, target, dict(shut_ports), sources)


def _blocked_ports(
    inventory: Inventory, seen: Pairs, target: str, shut: Mapping[int, str], sources: Sequence[str]
) -> Finding:
    own_choice = {*_end(seen, target).ephemeral, _end(seen, target).service}
    listed = ranges(inventory, [port for port in shut if port not in own_choice])
    if own_choice & set(shut):
        listed.append("ports of the kernel's choice")
    return Finding(
        "ports-blocked",
        Severity.ERROR,
        (*sources, target),
        f"{_arrow(sources, target)}: TCP {', '.join(listed)} of {_end(seen, target).address} "
        f"{'does' if len(listed) == 1 and '-' not in listed[0] else 'do'} not pass ({_said(shut.values())})",
        "a worker joins and is lost again, or a collective hangs: nodes need each other's ports in both directions "
        "(F35, F44, F55)",
        _open_ports(inventory, target) if "timeout" in shut.values() or "refused" in shut.values() else
        f"the firewall of {sources[0]} itself, or a router, refuses: on {sources[0]}: nft list ruleset",
    )  # fmt: skip


def _is_shut(outcome: str) -> bool:
    return outcome != "ok" and not outcome.startswith("other: ")


def ranges(inventory: Inventory, ports: Iterable[int]) -> list[str]:
    """Ports as ranges: neighbours together, and a declared range whole where every tried port of it is named."""
    left = set(ports)
    texts = []
    for first, last in ranges_of(mode_of(inventory).listens, inventory):
        if left >= set(sampled((first, last))):
            left -= set(sampled((first, last)))
            texts.append((first, f"{first}-{last}" if last > first else ""))
    for first in sorted(left):
        if first - 1 in left:
            continue
        last = first
        while last + 1 in left:
            last += 1
        texts.append((first, f"{first}-{last}" if last > first else ""))
    return [text or str(first) for first, text in sorted(texts)]


def _open_ports(inventory: Inventory, target: str) -> str:
    """How a firewall on the target lets the cluster through (failure-modes.md, «Ports»)."""
    cidr = inventory.network.cidr
    return (
        f"on {target}, let all TCP from the private network in: ufw allow proto tcp from {cidr}, or: "
        f"nft insert rule inet filter input ip saddr {cidr} tcp dport 1-65535 accept, or: "
        f"iptables -I INPUT -p tcp -s {cidr} -j ACCEPT (NCCL and Gloo use ports of the kernel's choice; RoCE v2 also "
        "needs UDP 4791)"
    )


def _said(outcomes: Iterable[str]) -> str:
    """What became of the connections, in words."""
    words = {"timeout": "no answer: dropped on the way", "refused": "refused, though something listened there"}
    return "; ".join(sorted({words.get(outcome, outcome) for outcome in outcomes}))


def _arrow(sources: Sequence[str], target: str) -> str:
    return f"{', '.join(sources)} -> {target}"


def _mtu(inventory: Inventory, seen: Pairs) -> Iterator[Finding]:
    """Interfaces with different MTUs, and packets of the interface's size that do not arrive (F34)."""
    ends = {name: end for name, end in seen.ends.items() if isinstance(end, End)}
    by_mtu: dict[int, list[str]] = defaultdict(list)
    for name, end in ends.items():
        by_mtu[end.mtu].append(name)
    if len(by_mtu) > 1:
        yield Finding(
            "mtu-differs",
            Severity.ERROR,
            minority(by_mtu),
            "different MTUs: " + "; ".join(f"{', '.join(names)}: {mtu} B" for mtu, names in by_mtu.items()),
            "small messages pass and large ones hang: what the larger interface sends, the smaller one drops (F34)",
            _set_mtu(ends, max(by_mtu, key=lambda mtu: len(by_mtu[mtu])), minority(by_mtu)),
        )
    for (source, target), link in seen.links.items():
        # Between different MTUs the smaller one is all that can pass, and what differs is said above.
        expected = min(ends[source].mtu, ends[target].mtu)
        if link.largest_packet is not None and link.largest_packet < expected:
            size = f"packets of {expected} B do not arrive, those of {link.largest_packet} B do"
        elif link.bulk is False:
            size = "single bytes come back, 256 KiB do not"
        else:
            continue
        yield Finding(
            "mtu-path",
            Severity.ERROR,
            (source, target),
            f"{source} -> {target}: {size}",
            "a switch or tunnel between them carries less than the interfaces believe: large messages hang (F34)",
            f"raise the MTU of the switch ports on the way, or lower it on every node; try: on {source}: "
            f"ping -M do -s {expected - 28} -c 3 {ends[target].address}",
        )


def _set_mtu(ends: Mapping[str, End], mtu: int, names: Sequence[str]) -> str:
    commands = "; ".join(f"on {name}: ip link set {ends[name].interface} mtu {mtu}" for name in names)
    return f"{commands} (and in the network configuration, so that it stays)"


def _route(inventory: Inventory, seen: Pairs) -> Iterator[Finding]:
    """A peer that is reached through another interface, or from another address, than the node's own (F26, F28)."""
    for (source, target), link in seen.links.items():
        own, route = _end(seen, source), link.route
        if route is None or (route.interface == own.interface and route.source == own.address):
            continue
        yield Finding(
            "route-other-interface",
            Severity.WARNING,
            (source, target),
            f"{source} -> {target}: {_end(seen, target).address} is reached through {route.interface} (from "
            f"{route.source}), not through {own.interface} (from {own.address})",
            "NCCL and Gloo are told the interface of network.cidr; answers take another way than questions (F26, F28)",
            f"on {source}: ip route get {_end(seen, target).address}; ip route show; remove the route or the second "
            "address that is more specific",
        )


def _latency(inventory: Inventory, seen: Pairs) -> Iterator[Finding]:
    """A pair that is much farther apart than the others, or than one building is wide."""
    times = {pair: link.min_us for pair, link in seen.links.items() if link.min_us is not None}
    middle = statistics.median(times.values()) if len(times) >= PAIRS_TO_COMPARE else HIGH_LATENCY_US
    limit = min(HIGH_LATENCY_US, max(LATENCY_FLOOR_US, LATENCY_FACTOR * middle))
    for (source, target), least in times.items():
        # Both directions take the same round trip: the slower one speaks for both.
        if least > limit and (least, source) >= (times.get((target, source), 0.0), target):
            yield Finding(
                "latency-high",
                Severity.WARNING,
                (source, target),
                f"{source} -> {target}: the shortest of 20 round trips took {least / 1000:.2f} ms"
                + (f" (the middle pair: {middle / 1000:.2f} ms)" if len(times) >= PAIRS_TO_COMPARE else ""),
                "every token crosses from one pipeline stage to the next: latency is paid for each (F26)",
                f"on {source}: ip route get {_end(seen, target).address}; look for a router, a VPN or a loaded link",
            )


def _throughput(inventory: Inventory, seen: Pairs) -> Iterator[Finding]:
    """A pair with much less throughput than the others."""
    if len(seen.gbit_per_s) < PAIRS_TO_COMPARE:
        return
    middle = statistics.median(seen.gbit_per_s.values())
    for (source, target), rate in seen.gbit_per_s.items():
        if rate < LOW_THROUGHPUT * middle:
            yield Finding(
                "throughput-low",
                Severity.WARNING,
                (source, target),
                f"{source} -> {target}: {rate:.2f} Gbit/s over TCP (the middle pair: {middle:.2f} Gbit/s)",
                "the slowest link sets the pace of the whole pipeline",
                f"on both: ethtool {_end(seen, source).interface} (speed, duplex); ethtool -S … for errors; a cable or "
                "port at the switch",
            )


def _end(seen: Pairs, name: str) -> End:
    """The end of a node that a link leads to or from: links are between nodes that listened."""
    end = seen.ends[name]
    if isinstance(end, Unknown):
        raise TypeError(f"{name} has links and no end: {end.reason}")
    return end
