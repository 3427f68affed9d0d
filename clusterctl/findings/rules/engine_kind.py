"""The engine is the one that the inventory names, and new enough."""

from __future__ import annotations

import re
from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.records import EngineFacts
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

OLDEST_PODMAN = (5, 1)
"""The first one whose API changes a container's restart policy (containers/podman#22322, release notes of 5.1.0)."""

OTHER = Code(
    name="engine-other",
    severity=ERROR,
    title="The engine is another one",
    runbook="engine.md",
    seen="the command `{program}` on the node leads to {kind} {version}, not to the engine of the inventory",
    why="the engines differ in what they refuse and in how a container comes back, so one is not driven as the other",
    fix="set container.engine: {kind}, where all nodes have it; or install the other engine on the node (a package may "
    "have given Podman the other one's command)",
)
TOO_OLD = Code(
    name="engine-too-old",
    severity=ERROR,
    title="The engine is too old",
    runbook="engine.md",
    seen="the engine is Podman {version}",
    why="before 5.1 Podman cannot change the restart policy of a container, so a cluster that serves would not heal",
    fix="install Podman 5.1 or newer on the node (Debian 13, RHEL 9.5 and Fedora 40 have it), or use Docker Engine",
)


@rule(Section.ENGINE, OTHER, TOO_OLD)
def engine_kind(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The engine is the one that the inventory names, and new enough."""
    for name, node in facts.nodes.items():
        engine, asked = node.engine, inventory.container.engine
        if not isinstance(engine, EngineFacts):
            continue
        if engine.kind != asked:
            program, kind, version = node.commands.program, engine.kind, engine.version
            yield OTHER.found(name, program=program, kind=kind, version=version)
        elif engine.kind == "podman" and _version(engine.version) < OLDEST_PODMAN:
            yield TOO_OLD.found(name, version=engine.version)


def _version(text: str) -> tuple[int, int]:
    """Its first two numbers; one that is none counts as new."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})", text)
    return (int(match[1]), int(match[2])) if match else OLDEST_PODMAN
