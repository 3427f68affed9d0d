"""Addresses and ports. Pure; one small function a rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.findings.finding import Finding, Severity
from clusterctl.findings.rules.common import runs_ours, unknown
from clusterctl.inventory.model import Inventory
from clusterctl.modes.all import mode_of


def addresses(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Each node has exactly one address in the private network, and no two the same (F1, F28)."""
    cidr = inventory.network.cidr
    owners: dict[object, list[str]] = defaultdict(list)
    for declared in inventory.nodes:
        node = facts.nodes.get(declared.name)
        if node is None:
            continue
        if isinstance(node.addresses, Unknown):
            yield unknown("address-unknown", declared.name, node.addresses)
            continue
        inside = [item for item in node.addresses if item.address in cidr]
        if declared.address is not None:
            inside = [item for item in inside if item.address == declared.address]
        shown = ", ".join(f"{item.address} on {item.interface}" for item in node.addresses) or "none"
        wanted = declared.address or f"an address in {cidr}"
        if not inside:
            yield Finding(
                "address-missing",
                Severity.ERROR,
                (declared.name,),
                f"the node does not have {wanted} (it has: {shown})",
                "Ray, NCCL and Gloo are bound to the node's address in network.cidr",
                "correct network.cidr or the node's `address` in the inventory, or configure the interface",
            )
        elif len({item.address for item in inside}) > 1:
            yield Finding(
                "address-ambiguous",
                Severity.ERROR,
                (declared.name,),
                f"several addresses in {cidr}: {', '.join(f'{i.address} on {i.interface}' for i in inside)}",
                "traffic would leave by whichever route the kernel picks (F28)",
                "set `address` for this node in the inventory",
            )
        else:
            owners[inside[0].address].append(declared.name)
    for address, own in owners.items():
        # Also a node that has another node's address beside its own: packets for that node may end at this one.
        names = [name for name, node in facts.nodes.items() if name in own or _has(node, address)]
        if len(names) > 1:
            yield Finding(
                "address-duplicate",
                Severity.ERROR,
                tuple(names),
                f"{address} is on more than one node",
                "every rank needs an address of its own (F1); perhaps two entries are the same machine",
                "give each node its own address; check that the entries are different machines",
            )


def _has(node: NodeFacts, address: object) -> bool:
    return not isinstance(node.addresses, Unknown) and any(item.address == address for item in node.addresses)


def ports(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The ports that will be listened on are free; a stranger on one is named (F42, F57)."""
    for name, node in facts.nodes.items():
        if isinstance(node.listeners, Unknown):
            yield unknown("ports-unknown", name, node.listeners)
            continue
        if runs_ours(node, inventory):
            continue  # its own listeners hold them
        wanted = mode_of(inventory).ports(inventory, name)
        for port in sorted({listener.port for listener in node.listeners} & set(wanted)):
            holder = next(listener for listener in node.listeners if listener.port == port)
            yield Finding(
                "port-taken",
                Severity.ERROR,
                (name,),
                f"port {port} ({wanted[port]}) is taken by {holder.process or 'another process'} on {holder.address}",
                "the server or Ray could not listen there (F42, F57)",
                f"stop that process (on the node: ss -ltnp 'sport = :{port}'), or choose another port in the inventory",
            )
