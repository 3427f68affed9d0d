"""The container engine of each node."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

MISSING = Code(
    name="engine-missing",
    severity=ERROR,
    title="Docker is missing",
    runbook="engine.md",
    seen="the command `docker` is not in the PATH of an SSH login",
    why="the container on this node is started through it",
    fix="install Docker Engine on the node (Debian: apt-get install docker.io)",
    waivable=False,
)
UNUSABLE = Code(
    name="engine-unusable",
    severity=ERROR,
    title="Docker does not answer",
    runbook="engine.md",
    seen="{reason}",
    why="the container on this node is started through the engine",
    fix=lambda engine: (
        f"on the node: {engine.status}; for permission: {engine.admit('USER')} and log in again, or set "
        "container.sudo: true"
    ),
    note="The reason is why the engine does not answer: none runs, or this login may not use it.",
    waivable=False,
)
LISTS_NOTHING = UNUSABLE.variant(
    seen="the engine answers, but its containers cannot be listed: {reason}",
    why="it is not known whether this cluster runs on the node, so nothing can be planned",
    fix=lambda engine: f"on the node: {engine.list}; a container that hangs: {engine.restart_all}",
)


@rule(Section.ENGINE, MISSING, UNUSABLE, LISTS_NOTHING)
def engine(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """No engine, one that this login may not use, or one that does not list its containers: taking that for "none"
    would lead to a plan that stops what runs."""
    for name, node in facts.nodes.items():
        if node.engine is None:
            yield MISSING.found(name)
        elif isinstance(node.engine, Unknown):
            yield UNUSABLE.found(name, engine=node.commands, reason=node.engine.reason)
        elif isinstance(node.containers, Unknown):
            yield LISTS_NOTHING.found(name, engine=node.commands, reason=node.containers.reason)
