"""The engine can give the container the locked memory that the inventory asks for."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.records import EngineFacts
from clusterctl.facts.system import UNLIMITED, EngineProcess
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory, Ulimit

REFUSED = Code(
    name="memlock-refused",
    severity=ERROR,
    title="The engine refuses memlock",
    runbook="machine.md",
    seen="container.ulimits asks for memlock {wanted}, the engine (pid {pid}) is limited to {limit} bytes and may not "
    "raise it (no CAP_SYS_RESOURCE)",
    why="the engine refuses to start the container: error setting rlimit type 8; RDMA needs locked memory",
    fix=lambda engine: (
        f"on the node: {engine.edit}, then [Service] LimitMEMLOCK=infinity, and restart it; or, without RDMA, "
        "leave memlock out of container.ulimits"
    ),
)


@rule(Section.MACHINE, REFUSED)
def memlock(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The engine can give the container the locked memory that the inventory asks for."""
    asked = inventory.container.ulimits.get("memlock")
    for name, node in facts.nodes.items():
        process = node.system.engine_process
        if not isinstance(process, EngineProcess) or asked is None or process.may_raise_limits:
            continue
        if isinstance(node.engine, EngineFacts) and (node.engine.kind == "podman" or node.engine.rootless):
            continue  # the process that was read is root's Docker
        hard = asked.hard if isinstance(asked, Ulimit) else asked
        limit = process.memlock_hard_bytes
        if limit != UNLIMITED and not 0 <= hard <= limit:
            yield REFUSED.found(name, engine=node.commands, wanted=hard, pid=process.pid, limit=limit)
