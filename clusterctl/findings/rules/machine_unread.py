"""What of a machine could not be read, and so was not checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Fact, Unknown
from clusterctl.facts.records import EngineFacts
from clusterctl.facts.system import Filesystem
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.nodes import UNCHECKED_WHY, UNREAD_FIX
from clusterctl.inventory.model import Inventory

UNKNOWN = Code(
    name="system-unknown",
    severity=WARNING,
    title="The machine cannot be read",
    runbook="machine.md",
    seen="could not be checked: {what}",
    why=UNCHECKED_WHY,
    fix=UNREAD_FIX,
    note="The clock, disks, memory, host name, the engine's limits, each with the reason.",
)


@rule(Section.MACHINE, UNKNOWN)
def machine_unread(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """What of a machine could not be read, and so was not checked."""
    for name, node in facts.nodes.items():
        system = node.system
        asked: Mapping[str, Fact[object]] = {
            "the clock": system.clock,
            "free disk space": _data_root(node),
            "memory": _first_unknown(system.memory_total_bytes, node.memory_available_bytes),
            "what the host name resolves to": system.own_addresses,
            "the engine's limits": system.engine_process if "memlock" in inventory.container.ulimits else None,
        }
        lost = [f"{what}: {fact.reason}" for what, fact in asked.items() if isinstance(fact, Unknown)]
        if lost:
            yield UNKNOWN.found(name, what="; ".join(lost))


def _data_root(node: NodeFacts) -> Fact[Filesystem]:
    if isinstance(node.system.filesystems, Unknown):
        return node.system.filesystems
    if not isinstance(node.engine, EngineFacts):
        return None
    return node.system.filesystem(node.engine.data_root) or Unknown(f"{node.engine.data_root} was not checked")


def _first_unknown(*facts: Fact[object]) -> Unknown | None:
    return next((fact for fact in facts if isinstance(fact, Unknown)), None)
