"""Something starts the node's containers after a boot: Podman has no daemon that does."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.records import EngineFacts
from clusterctl.facts.system import Services
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

NOBODY = Code(
    name="podman-restart-off",
    severity=WARNING,
    title="After a reboot nothing starts the container",
    runbook="engine.md",
    seen="podman-restart.service is not enabled",
    why="Podman has no daemon: after a reboot or a power cut the node's container stays down, and the cluster with it",
    fix="on the node: systemctl enable podman-restart.service",
    note="Only where systemd runs, and supervise is on.",
)
NOBODY_OF_LOGIN = NOBODY.variant(
    seen="podman-restart.service of the login's own Podman is not enabled",
    fix="on the node, as that login: systemctl --user enable podman-restart.service",
)


@rule(Section.ENGINE, NOBODY, NOBODY_OF_LOGIN)
def engine_boot(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Something starts the node's containers after a boot: Podman has no daemon that does."""
    if inventory.supervise != "on":
        return
    for name, node in facts.nodes.items():
        engine, services = node.engine, node.system.services
        if not isinstance(engine, EngineFacts) or engine.kind != "podman" or node.system.systemd is not True:
            continue
        if isinstance(services, Services) and not (services.user_restarts if engine.rootless else services.restarts):
            yield (NOBODY_OF_LOGIN if engine.rootless else NOBODY).found(name)
