"""All other nodes are reached through the same interfaces."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.way import ways
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

DIFFER = Code(
    name="routes-differ",
    severity=WARNING,
    title="Other nodes through other interfaces",
    runbook="addresses.md",
    seen="other nodes are reached through different interfaces: {ways}",
    why="Gloo is told one interface ({gloo}) and NCCL all of them, and both offer the interface's own address: every "
    "node must be able to reach each of these addresses",
    fix="give the node one address that all others reach, on an interface that leads to all of them (a bond, a bridge, "
    "a switch); to see what passes: clusterctl check --nccl",
    note="Shown as `NODES through INTERFACES`. Connections that the kernel spreads over several interfaces alike "
    "(ECMP) are no finding.",
)


@rule(Section.ADDRESSES, DIFFER)
def routes_differ(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """All other nodes are reached through the same interfaces."""
    for name, way in ways(inventory, facts).items():
        if not way.differs:
            continue
        through: dict[tuple[str, ...], list[str]] = {}
        for peer, answer in way.peers.items():
            if answer.interfaces:
                through.setdefault(tuple(sorted(answer.interfaces)), []).append(peer)
        shown = "; ".join(f"{', '.join(peers)} through {' and '.join(each)}" for each, peers in through.items())
        yield DIFFER.found(name, ways=shown, gloo=way.sockets[0])
