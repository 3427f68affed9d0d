"""Shared memory in the container holds NCCL's and vLLM's buffers."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import ERROR, WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.image import reports
from clusterctl.inventory.model import Inventory

SURELY_TOO_SMALL_BYTES = 64 << 20
"""Docker's default. vLLM's queue between the server and one node's ranks alone is larger (0.32: 10 chunks of 16 MiB,
VLLM_MQ_MAX_CHUNK_BYTES_MB)."""
SMALL_BYTES = 1 << 30
"""NVIDIA's own containers ask for 1 GiB at least (NCCL's troubleshooting guide, "Shared memory")."""

TOO_SMALL = Code(
    name="shm-too-small",
    severity=ERROR,
    unless="a warning above Docker's own 64 MiB and below 1 GiB",
    title="Too little shared memory",
    runbook="image-report.md",
    seen="shared memory (/dev/shm) in the container has {size} MiB",
    why='NCCL and vLLM\'s queues between processes are in it: "Bus error", "failed to extend /dev/shm"',
    fix="leave container.shm_bytes out (256 GiB), or raise it (with ipc host, on the node: mount -o "
    "remount,size=16G /dev/shm)",
)


@rule(Section.IMAGE_REPORT, TOO_SMALL)
def shared_memory(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Shared memory in the container holds NCCL's and vLLM's buffers."""
    for name, _, report in reports(facts):
        if report.shm_bytes is not None and report.shm_bytes < SMALL_BYTES:
            severity = ERROR if report.shm_bytes <= SURELY_TOO_SMALL_BYTES else WARNING
            yield TOO_SMALL.found(name, severity=severity, size=report.shm_bytes >> 20)
