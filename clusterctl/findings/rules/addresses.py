"""Each node has exactly one address in the private network, and no two nodes the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.nodes import UNREAD_FIX, UNREAD_WHY
from clusterctl.inventory.model import Inventory

MISSING = Code(
    name="address-missing",
    severity=ERROR,
    title="No address in the private network",
    runbook="addresses.md",
    seen="the node does not have {address} (it has: {addresses})",
    why="Ray, NCCL and Gloo are bound to the node's address in network.cidr",
    fix="correct network.cidr or the node's `address` in the inventory, or configure the interface",
    waivable=False,
)
AMBIGUOUS = Code(
    name="address-ambiguous",
    severity=ERROR,
    title="Several addresses",
    runbook="addresses.md",
    seen="several addresses in {cidr}: {addresses}",
    why="traffic would leave by whichever route the kernel picks",
    fix="set `address` for this node in the inventory",
    waivable=False,
)
DUPLICATE = Code(
    name="address-duplicate",
    severity=ERROR,
    title="One address twice",
    runbook="addresses.md",
    seen="{address} is on more than one node",
    why="every rank needs an address of its own; perhaps two entries are the same machine",
    fix="give each node its own address; check that the entries are different machines",
)
UNKNOWN = Code(
    name="address-unknown",
    severity=ERROR,
    title="Addresses cannot be read",
    runbook="addresses.md",
    seen="{reason}",
    why=UNREAD_WHY,
    fix=UNREAD_FIX,
    note="The reason is the error of `ip -o -4 addr show` on the node, where the kernel's own tables did not help "
    "either.",
    waivable=False,
)


@rule(Section.ADDRESSES, MISSING, AMBIGUOUS, DUPLICATE, UNKNOWN)
def addresses(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Each node has exactly one address in the private network, and no two nodes the same."""
    cidr = inventory.cidr
    owners: dict[object, list[str]] = defaultdict(list)
    for declared in inventory.nodes:
        node = facts.nodes.get(declared.name)
        if node is None:
            continue
        if isinstance(node.addresses, Unknown):
            yield UNKNOWN.found(declared.name, reason=node.addresses.reason)
            continue
        if cidr is None and declared.address is None:
            continue  # a single node, whose processes meet on loopback
        inside = [item for item in node.addresses if cidr is None or item.address in cidr]
        if declared.address is not None:
            inside = [item for item in inside if item.address == declared.address]
        if not inside:
            shown = ", ".join(f"{item.address} on {item.interface}" for item in node.addresses) or "none"
            wanted = declared.address or f"an address in {cidr}"
            yield MISSING.found(declared.name, address=wanted, addresses=shown)
        elif len({item.address for item in inside}) > 1:
            shown = ", ".join(f"{item.address} on {item.interface}" for item in inside)
            yield AMBIGUOUS.found(declared.name, cidr=cidr, addresses=shown)
        else:
            owners[inside[0].address].append(declared.name)
    for address, own in owners.items():
        # Also a node that has another node's address beside its own: packets for that node may end at this one.
        names = [name for name, node in facts.nodes.items() if name in own or _has(node, address)]
        if len(names) > 1:
            yield DUPLICATE.found(*names, address=address)


def _has(node: NodeFacts, address: object) -> bool:
    return not isinstance(node.addresses, Unknown) and any(item.address == address for item in node.addresses)
