"""An engine that may not do everything: a user's own (rootless), or one that is packed as a snap."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.gpus import in_snap
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.records import EngineFacts
from clusterctl.facts.system import UNLIMITED, Services
from clusterctl.findings.code import ERROR, WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory, Ulimit

ROOTLESS = Code(
    name="engine-rootless",
    severity=WARNING,
    title="The engine is rootless",
    runbook="engine.md",
    seen="the engine ({kind} {version}) is a user's own, without root",
    why="it gives containers only what that user may do (locked memory, ports, devices), and a cluster on it was not "
    "tried",
    fix="use root's engine: log in as root, or set container.sudo: true; to go on all the same, waive engine-rootless",
    note="By the engine's own word: Docker's security option `rootless`, Podman's `Rootless`.",
)
UNDER_SUDO = ROOTLESS.variant(
    fix=lambda engine: (
        f"on the node, find out why root is led to a user's engine (variables, contexts): sudo -n {engine.info}"
    ),
)
LIMIT = Code(
    name="rootless-limit",
    severity=ERROR,
    title="A rootless engine may not give the limit",
    runbook="engine.md",
    seen="container.ulimits asks for {limit} {wanted}, and the engine's user has at most {most}",
    why="the engine refuses to start the container: error setting rlimit, operation not permitted",
    fix="on the node: a line `USER hard {limit} unlimited` in /etc/security/limits.d, and log in again; or leave "
    "{limit} out of container.ulimits (RDMA needs memlock); or use root's engine",
)
PORT = Code(
    name="rootless-port",
    severity=ERROR,
    title="A rootless engine may not open the port",
    runbook="engine.md",
    seen="serve.port is {port}, and ports below {first} are root's on the node",
    why="with the host's network the server listens as the engine's user: permission denied",
    fix="set serve.port to {first} or more, or on the node: sysctl net.ipv4.ip_unprivileged_port_start={port}",
)
LINGER = Code(
    name="rootless-linger",
    severity=ERROR,
    title="A rootless engine ends with the login",
    runbook="engine.md",
    seen="the engine's user does not linger",
    why="when the last login ends, systemd ends all of the user's processes: the containers with them",
    fix="on the node: loginctl enable-linger USER",
    note="Only where systemd runs.",
)
SNAP = Code(
    name="engine-snap",
    severity=WARNING,
    title="The engine is a snap",
    runbook="engine.md",
    seen="the engine is Docker's snap ({root})",
    why="it is confined: it cannot mount a model outside home directories, and sees no NVIDIA toolkit of the node",
    fix="instead of the snap, install Docker Engine from docker.com on the node",
    note="By its data root, below /var/snap.",
)


@rule(Section.ENGINE, ROOTLESS, UNDER_SUDO, LIMIT, PORT, LINGER, SNAP)
def engine_confined(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """An engine that may not do everything: a user's own (rootless), or one that is packed as a snap."""
    for name, node in facts.nodes.items():
        engine = node.engine
        if not isinstance(engine, EngineFacts):
            continue
        if in_snap(engine):
            yield SNAP.found(name, root=engine.data_root)
        if engine.rootless:
            code = UNDER_SUDO if inventory.container.sudo else ROOTLESS
            yield code.found(name, engine=node.commands, kind=engine.kind, version=engine.version)
            yield from _refused(inventory, name, node)


def _refused(inventory: Inventory, name: str, node: NodeFacts) -> Iterator[Finding]:
    """What a rootless engine surely cannot do."""
    mosts = {"memlock": node.system.login_memlock_bytes, "nofile": node.system.login_nofile}
    for limit, most in mosts.items():
        asked = next((value for key, value in inventory.container.ulimits.items() if key == limit), None)
        hard = asked.hard if isinstance(asked, Ulimit) else asked
        if hard is not None and isinstance(most, int) and most != UNLIMITED and not 0 <= hard <= most:
            yield LIMIT.found(name, limit=limit, wanted=hard, most=most)
    services = node.system.services
    if not isinstance(services, Services):
        return
    if inventory.serve.port < services.first_port:
        yield PORT.found(name, port=inventory.serve.port, first=services.first_port)
    if node.system.systemd is True and not services.lingers:
        yield LINGER.found(name)
