"""Enough free memory for the workers, below the point at which Ray kills them."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.findings.code import ERROR, WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.machine import GIB, size
from clusterctl.findings.topics.nodes import runs_ours
from clusterctl.inventory.model import Inventory
from clusterctl.modes.all import mode_of

RAY_MEMORY_THRESHOLD = 0.95
"""Used memory at which Ray begins to kill workers (RAY_memory_usage_threshold, Ray 2.60)."""
WORKER_BYTES = 2 * GIB
"""Memory of the machine for one worker process before it holds weights: Python, torch, vLLM and a CUDA context take
1 to 3 GiB. An estimate, hence a warning."""

LOW = Code(
    name="memory-low",
    severity=WARNING,
    unless="an error when Ray's limit (`RAY_memory_usage_threshold`, 0.95) is reached already",
    title="Memory is low",
    runbook="machine.md",
    seen="{available} of {total} memory available; Ray kills workers when less than {limit} is left, and the "
    "workers here take about {wanted}",
    why="Ray's memory monitor kills workers at 95% used memory",
    fix="on the node: ps -eo pid,user,rss,args --sort=-rss | head; on unified memory also: "
    "sync; echo 3 > /proc/sys/vm/drop_caches",
    note="Not checked on a node where this cluster's container runs.",
)


WITHOUT_RAY = LOW.variant(
    seen="{available} of {total} memory available, and the workers here take about {wanted}",
    why="the kernel kills what takes the last of it",
)


@rule(Section.MACHINE, LOW, WITHOUT_RAY)
def memory(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Enough free memory for the workers, below the point at which Ray kills them."""
    over_ray = mode_of(inventory).name == "ray"
    threshold = ray_threshold(inventory) if over_ray else 1.0
    for name, node in facts.nodes.items():
        total, available = node.system.memory_total_bytes, node.memory_available_bytes
        if not isinstance(total, int) or not isinstance(available, int) or runs_ours(node, inventory):
            continue
        limit = int(total * (1 - threshold))
        spare = available - limit
        wanted = WORKER_BYTES * _workers(inventory, node)
        if spare < wanted:
            yield (LOW if over_ray else WITHOUT_RAY).found(
                name,
                severity=ERROR if spare <= 0 else WARNING,
                available=size(available),
                total=size(total),
                limit=size(limit),
                wanted=size(wanted),
            )


def ray_threshold(inventory: Inventory) -> float:
    """The part of the memory at which Ray begins to kill workers."""
    try:
        return float(inventory.container.env.get("RAY_memory_usage_threshold", RAY_MEMORY_THRESHOLD))
    except ValueError:
        return RAY_MEMORY_THRESHOLD


def _workers(inventory: Inventory, node: NodeFacts) -> int:
    declared = inventory.accelerator.per_node
    if isinstance(declared, int):
        return declared
    return len(node.gpus) if isinstance(node.gpus, tuple) else 1
