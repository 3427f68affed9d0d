"""Ports that do not pass; one finding for all nodes from which the same ports of a node are out of reach."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.pairs import Pairs
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.pairs import end_of, tried_pairs
from clusterctl.inventory.model import Inventory
from clusterctl.modes.all import listens_of
from clusterctl.modes.ports import ranges_of, sampled

OPEN = (
    "on {target}, let all TCP from the private network in: ufw allow proto tcp from {cidr}, or: "
    "nft insert rule inet filter input ip saddr {cidr} tcp dport 1-65535 accept, or: "
    "iptables -I INPUT -p tcp -s {cidr} -j ACCEPT (NCCL and Gloo use ports of the kernel's choice; RoCE v2 also "
    "needs UDP 4791)"
)
"""How a firewall on the target lets the cluster through (docs/how-to/ports-and-firewall.md)."""

NONE_PASSES = Code(
    name="pair-unreachable",
    severity=ERROR,
    title="Two nodes do not reach each other",
    runbook="network.md",
    seen="{sources} -> {target}: no TCP port of {address} answers ({outcome})",
    why="Ray, NCCL and Gloo connect every node with every other one",
    fix=f"on {{source}}: ip route get {{address}}; then look for a firewall: {OPEN}",
    note="In parentheses: what became of the connections.",
)
DROPPED = Code(
    name="ports-blocked",
    severity=ERROR,
    title="Ports are blocked",
    runbook="network.md",
    seen="{sources} -> {target}: connections to TCP {ports} of {address} fail ({outcome})",
    why="a worker joins and is lost again, or a collective hangs: nodes need each other's ports in both directions",
    fix=OPEN,
    note="The arrow is the direction of the connection; in parentheses: what became of the connections.",
)
NOT_SENT = DROPPED.variant(
    fix="the firewall of {source} itself, or a router, refuses: on {source}: nft list ruleset",
)


@rule(Section.PAIRS, DROPPED, NOT_SENT, NONE_PASSES)
def pair_ports(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Ports that do not pass; one finding for all nodes from which the same ports of a node are out of reach."""
    seen = tried_pairs(facts)
    if seen is None:
        return
    nothing: dict[str, list[str]] = defaultdict(list)
    some: dict[tuple[str, tuple[tuple[int, str], ...]], list[str]] = defaultdict(list)
    for (source, target), link in seen.links.items():
        shut = {port: outcome for port, outcome in link.ports.items() if _is_shut(outcome)}
        if shut and len(shut) == len(link.ports):
            nothing[target].append(source)
        elif shut:
            # The kernel's choice differs from run to run: which of them it was means nothing.
            some[target, tuple(sorted(shut.items()))].append(source)
    for target, sources in nothing.items():
        outcomes = {outcome for source in sources for outcome in seen.links[source, target].ports.values()}
        yield NONE_PASSES.found(
            *sources,
            target,
            sources=", ".join(sources),
            source=sources[0],
            target=target,
            address=end_of(seen, target).address,
            outcome=_in_words(outcomes),
            cidr=inventory.cidr,
        )
    for (target, shut_ports), sources in some.items():
        yield _blocked(inventory, seen, target, dict(shut_ports), sources)


def _blocked(
    inventory: Inventory, seen: Pairs, target: str, shut: Mapping[int, str], sources: Sequence[str]
) -> Finding:
    own_choice = {*end_of(seen, target).ephemeral, end_of(seen, target).service}
    listed = ranges(inventory, [port for port in shut if port not in own_choice])
    if own_choice & set(shut):
        listed.append("ports of the kernel's choice")
    by_target = "timeout" in shut.values() or "refused" in shut.values()
    return (DROPPED if by_target else NOT_SENT).found(
        *sources,
        target,
        sources=", ".join(sources),
        source=sources[0],
        target=target,
        ports=", ".join(listed),
        address=end_of(seen, target).address,
        outcome=_in_words(shut.values()),
        cidr=inventory.cidr,
    )


def _is_shut(outcome: str) -> bool:
    return outcome != "ok" and not outcome.startswith("other: ")


def ranges(inventory: Inventory, ports: Iterable[int]) -> list[str]:
    """Ports as ranges: neighbours together, and a declared range whole where every tried port of it is named."""
    left = set(ports)
    texts = []
    for first, last in ranges_of(listens_of(inventory), inventory):
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


def _in_words(outcomes: Iterable[str]) -> str:
    """What became of the connections."""
    words = {"timeout": "no answer: dropped on the way", "refused": "refused, though something listened there"}
    return "; ".join(sorted({words.get(outcome, outcome) for outcome in outcomes}))
