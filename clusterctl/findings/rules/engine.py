"""The container engine of each node."""

from __future__ import annotations

import re
from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

MISSING = Code(
    name="engine-missing",
    severity=ERROR,
    title="The container engine is missing",
    runbook="engine.md",
    seen="the command `{program}` is not in the PATH of an SSH login",
    why="the container on this node is started through it",
    fix=lambda engine: engine.install,
    waivable=False,
)
UNUSABLE = Code(
    name="engine-unusable",
    severity=ERROR,
    title="The container engine does not answer",
    runbook="engine.md",
    seen="{reason}",
    why="the container on this node is started through the engine",
    fix=lambda engine: f"on the node: {engine.status}; for permission: {engine.permit('USER')}",
    note="The reason is why the engine does not answer: none runs, or this login may not use it.",
    waivable=False,
)
SUDO_ASKS = UNUSABLE.variant(
    fix=lambda engine: (
        "on the node, let sudo run it without a password or a terminal: visudo -f /etc/sudoers.d/clusterctl, with "
        f"{{user}} ALL=(root) NOPASSWD: /usr/bin/{engine.program} and Defaults:{{user}} !requiretty"
    ),
)
WITH_SUDO = UNUSABLE.variant(fix=lambda engine: f"on the node, as root: {engine.status}; {engine.journal}")
LISTS_NOTHING = UNUSABLE.variant(
    seen="the engine answers, but its containers cannot be listed: {reason}",
    why="it is not known whether this cluster runs on the node, so nothing can be planned",
    fix=lambda engine: f"on the node: {engine.list}; a container that hangs: {engine.restart_all}",
)


@rule(Section.ENGINE, MISSING, UNUSABLE, SUDO_ASKS, WITH_SUDO, LISTS_NOTHING)
def engine(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """No engine, one that this login may not use, or one that does not list its containers: taking that for "none"
    would lead to a plan that stops what runs."""
    for name, node in facts.nodes.items():
        if node.engine is None:
            yield MISSING.found(name, engine=node.commands, program=node.commands.program)
        elif isinstance(node.engine, Unknown):
            yield _unusable(inventory, name, node, node.engine.reason)
        elif isinstance(node.containers, Unknown):
            yield LISTS_NOTHING.found(name, engine=node.commands, reason=node.containers.reason)


SUDO_REFUSES = re.compile(
    r"sudo: .*(?:password|terminal|tty|askpass)|not in the sudoers|may not run sudo", re.IGNORECASE
)
"""sudo's own words (1.8.19 to 1.9) where it will not run a command without somebody at a keyboard, or not at all."""


def _unusable(inventory: Inventory, name: str, node: NodeFacts, reason: str) -> Finding:
    """Advice that looks at what is in force: to whom sudo is on already, it is not recommended."""
    if not inventory.container.sudo:
        return UNUSABLE.found(name, engine=node.commands, reason=reason)
    if SUDO_REFUSES.search(reason):
        own = next(each for each in inventory.nodes if each.name == name)
        user = own.user or inventory.ssh.user or "USER"
        return SUDO_ASKS.found(name, engine=node.commands, reason=reason, user=user)
    return WITH_SUDO.found(name, engine=node.commands, reason=reason)
