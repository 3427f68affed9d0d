"""The ports that will be listened on are free; another process on one is named."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
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


@rule(Section.PORTS, TAKEN, UNKNOWN)
def ports_taken(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The ports that will be listened on are free; another process on one is named."""
    for name, node in facts.nodes.items():
        if isinstance(node.listeners, Unknown):
            yield UNKNOWN.found(name, reason=node.listeners.reason)
            continue
        if runs_ours(node, inventory):
            continue  # its own listeners hold them
        wanted = ports_of(inventory, name)
        for port in sorted({listener.port for listener in node.listeners} & set(wanted)):
            holder = next(listener for listener in node.listeners if listener.port == port)
            process = holder.process or "another process"
            yield TAKEN.found(name, port=port, field=wanted[port], process=process, address=holder.address)
