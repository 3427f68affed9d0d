"""The ports that will be listened on are free; another process on one is named."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.records import Listener, OtherCluster
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.nodes import UNREAD_FIX, UNREAD_WHY, runs_ours
from clusterctl.inventory.model import Inventory
from clusterctl.modes.all import ports_of

TAKEN = Code(
    name="port-taken",
    severity=ERROR,
    title="A port is taken",
    runbook="ports.md",
    seen="port {port} ({field}) is taken by {process} on {address}",
    why="the server, or what joins its processes, could not listen there",
    fix="stop that process (on the node: ss -ltnp 'sport = :{port}'), or choose another port in the inventory",
    note="Not checked on a node where this cluster's container runs.",
)
BY_CLUSTER = TAKEN.variant(
    seen="ports {ports} are taken by cluster {other} (container {container})",
    fix="take one of the two down, or give this one other ports: {fields}; two clusters on the same nodes also need "
    "accelerators of their own",
)
UNKNOWN = Code(
    name="ports-unknown",
    severity=ERROR,
    title="Ports cannot be read",
    runbook="ports.md",
    seen="{reason}",
    why=UNREAD_WHY,
    fix=UNREAD_FIX,
    note="Neither /proc/net/tcp nor /proc/net/tcp6 could be read.",
)


@rule(Section.PORTS, TAKEN, BY_CLUSTER, UNKNOWN)
def ports_taken(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The ports that will be listened on are free; another process on one is named."""
    for name, node in facts.nodes.items():
        if isinstance(node.listeners, Unknown):
            yield UNKNOWN.found(name, reason=node.listeners.reason)
            continue
        if runs_ours(node, inventory):
            continue  # its own listeners hold them
        yield from _taken(name, node, ports_of(inventory, name), node.listeners)


def _taken(name: str, node: NodeFacts, wanted: Mapping[int, str], listeners: Sequence[Listener]) -> Iterator[Finding]:
    """One finding for each port, or for all that another cluster holds."""
    held: dict[OtherCluster, list[int]] = defaultdict(list)
    for port in sorted({listener.port for listener in listeners} & set(wanted)):
        holder = next(listener for listener in listeners if listener.port == port)
        other = _cluster_of(holder, node.others)
        if other is not None:
            held[other].append(port)
            continue
        process = holder.process or "another process"
        yield TAKEN.found(name, port=port, field=wanted[port], process=process, address=holder.address)
    for other, ports in held.items():
        listed = ", ".join(map(str, ports))
        fields = ", ".join(wanted[port] for port in ports)
        yield BY_CLUSTER.found(name, ports=listed, fields=fields, other=other.cluster, container=other.container)


def _cluster_of(listener: Listener, others: Sequence[OtherCluster]) -> OtherCluster | None:
    """The cluster whose process it is, where the node let us see that."""
    pid = re.search(r"\(pid (\d+)\)$", listener.process or "")
    return next((other for other in others if pid is not None and int(pid[1]) in other.pids), None)
