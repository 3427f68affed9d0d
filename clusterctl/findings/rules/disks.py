"""Room where the engine and the node write. The model's own file system may be full: it is only read."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.records import EngineFacts
from clusterctl.facts.system import Filesystem
from clusterctl.findings.code import ERROR, WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.machine import GIB, MIB, size
from clusterctl.inventory.model import Inventory

DATA_ROOT_ERROR_BYTES = 512 * MIB
"""The container's log (256 MiB, planning/container.py) and what Ray and the compiler write at start do not fit below
this."""
DATA_ROOT_WARNING_BYTES = 5 * GIB
"""Below this a compile cache (torch inductor, Triton: 1-2 GiB for a large model), Ray's logs (100 MB a process,
rotated) and a core file soon fill it."""
TMP = "/tmp"  # noqa: S108 (a place that is checked, not written to)
TMP_WARNING_BYTES = 64 * MIB
"""Only small files are written to the node's own /tmp: the container's is below the data root."""
FEW_INODES = 10_000
"""Ray and the compile caches write some thousands of files at a start."""

FULL = Code(
    name="disk-full",
    severity=WARNING,
    unless="an error below 512 MiB in the data root",
    title="A disk is full",
    runbook="machine.md",
    seen="{path} ({use}) has {left} ({type})",
    why="the container's log, Ray's session files and compile caches are written there",
    fix=lambda engine: (
        f"on the node: df -h {{path}}; {engine.disk_use}; {engine.prune} (removes images that nothing uses)"
    ),
    note="The use is the engine's data root, or temporary files; what is left is `N of N free`, or `N of N inodes "
    "free`. Reported below 5 GiB in the data root, 64 MiB in /tmp, and 10,000 inodes. The model's own file system may "
    "be full: it is only read.",
)


@rule(Section.MACHINE, FULL)
def disks(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Room where the engine and the node write."""
    for name, node in facts.nodes.items():
        system = node.system
        if isinstance(node.engine, EngineFacts):
            root = system.filesystem(node.engine.data_root)
            if root is not None:
                yield from _full(
                    name,
                    node,
                    root,
                    "the engine's data root",
                    error_bytes=DATA_ROOT_ERROR_BYTES,
                    warning_bytes=DATA_ROOT_WARNING_BYTES,
                )
        tmp = system.filesystem(TMP)
        if tmp is not None:
            yield from _full(name, node, tmp, "temporary files", error_bytes=0, warning_bytes=TMP_WARNING_BYTES)


def _full(
    name: str, node: NodeFacts, disk: Filesystem, use: str, *, error_bytes: int, warning_bytes: int
) -> Iterator[Finding]:
    no_inodes = disk.total_inodes > 0 and disk.free_inodes < FEW_INODES
    if disk.free_bytes >= warning_bytes and not no_inodes:
        return
    if disk.free_bytes < warning_bytes:
        left = f"{size(disk.free_bytes)} of {size(disk.total_bytes)} free"
    else:
        left = f"{disk.free_inodes} of {disk.total_inodes} inodes free"
    severity = ERROR if disk.free_bytes < error_bytes else WARNING
    yield FULL.found(name, engine=node.commands, severity=severity, path=disk.path, use=use, left=left, type=disk.type)
