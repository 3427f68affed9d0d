"""Interfaces with different MTUs, and packets of the interface's size that do not arrive."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.pairs import End
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.nodes import minority
from clusterctl.findings.topics.pairs import tried_pairs
from clusterctl.inventory.model import Inventory

HEADERS_BYTES = 28
"""IPv4's and ICMP's headers, which `ping -s` does not count."""

DIFFER = Code(
    name="mtu-differs",
    severity=ERROR,
    title="MTUs differ",
    runbook="network.md",
    seen="different MTUs: {mtus}",
    why="small messages pass and large ones hang: what the larger interface sends, the smaller one drops",
    fix="{commands} (and in the network configuration, so that it stays)",
    note="Of the interfaces of the private network: `NODES: N B; NODES: M B`. The command is `ip link set "
    "INTERFACE mtu N` on each of the nodes that differ.",
)
PATH = Code(
    name="mtu-path",
    severity=ERROR,
    title="Large packets do not arrive",
    runbook="network.md",
    seen="{source} -> {target}: packets of {size} B do not arrive, those of {passing} B do",
    why="a switch or tunnel between them carries less than the interfaces believe: large messages hang",
    fix="raise the MTU of the switch ports on the way, or lower it on every node; try: on {source}: "
    "ping -M do -s {payload} -c 3 {address}",
)
BULK = PATH.variant(seen="{source} -> {target}: single bytes come back, 256 KiB do not")


@rule(Section.PAIRS, DIFFER, PATH, BULK)
def pair_mtu(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Interfaces with different MTUs, and packets of the interface's size that do not arrive."""
    seen = tried_pairs(facts)
    if seen is None:
        return
    ends = {name: end for name, end in seen.ends.items() if isinstance(end, End)}
    by_mtu: dict[int, list[str]] = defaultdict(list)
    for name, end in ends.items():
        by_mtu[end.mtu].append(name)
    if len(by_mtu) > 1:
        mtus = "; ".join(f"{', '.join(names)}: {mtu} B" for mtu, names in by_mtu.items())
        wanted = max(by_mtu, key=lambda mtu: len(by_mtu[mtu]))
        odd = minority(by_mtu)
        yield DIFFER.found(*odd, mtus=mtus, commands=_set_mtu(ends, wanted, odd))
    for (source, target), link in seen.links.items():
        # Between different MTUs the smaller one is all that can pass, and the difference is reported above.
        expected = min(ends[source].mtu, ends[target].mtu)
        if link.largest_packet is not None and link.largest_packet < expected:
            code, passing = PATH, link.largest_packet
        elif link.bulk is False:
            code, passing = BULK, 0
        else:
            continue
        yield code.found(
            source,
            target,
            source=source,
            target=target,
            size=expected,
            passing=passing,
            payload=expected - HEADERS_BYTES,
            address=ends[target].address,
        )


def _set_mtu(ends: Mapping[str, End], mtu: int, names: Sequence[str]) -> str:
    return "; ".join(f"on {name}: ip link set {ends[name].interface} mtu {mtu}" for name in names)
