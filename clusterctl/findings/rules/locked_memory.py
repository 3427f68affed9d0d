"""RDMA may lock the memory that it registers."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.image_report import MEMLOCK_UNLIMITED
from clusterctl.findings.code import ERROR, WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.image import has_verbs, reports
from clusterctl.inventory.model import Inventory

TOO_LITTLE = Code(
    name="memlock-in-container",
    severity=WARNING,
    unless="an error with rdma: required",
    title="RDMA may not lock memory",
    runbook="image-report.md",
    seen="the container may lock {size} KiB of memory, and has no IPC_LOCK",
    why='RDMA registers gigabytes: "ibv_reg_mr failed", "Cannot allocate memory"',
    fix="leave container.ulimits and container.cap_add at their defaults (memlock: -1, IPC_LOCK)",
)


@rule(Section.IMAGE_REPORT, TOO_LITTLE)
def locked_memory(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """RDMA may lock the memory that it registers."""
    required = inventory.rdma == "required"
    for name, node, report in reports(facts):
        wanted = required or has_verbs(node.infiniband)
        if wanted and report.memlock_bytes != MEMLOCK_UNLIMITED and not report.ipc_lock:
            yield TOO_LITTLE.found(name, severity=ERROR if required else WARNING, size=report.memlock_bytes >> 10)
