"""Where the GPU's memory is the machine's (DGX Spark): as much is free as vLLM asks for, and the system keeps some."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from clusterctl.deployment.gpus import used_gpus
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import ERROR, WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.rules.memory import ray_threshold
from clusterctl.findings.section import Section
from clusterctl.findings.topics.machine import size
from clusterctl.findings.topics.nodes import runs_ours
from clusterctl.inventory.model import Inventory
from clusterctl.layout.load import memory_share
from clusterctl.layout.memory import ADVISED
from clusterctl.modes.all import mode_of

LOW = Code(
    name="unified-memory-low",
    severity=ERROR,
    title="Too little unified memory is free",
    runbook="gpus.md",
    seen="{available} of {total} memory available, which the GPU shares; vLLM asks for {wanted} "
    "(gpu-memory-utilization {share}) when it starts",
    why="vLLM refuses to start: `Free memory on device … is less than desired GPU memory utilization`",
    fix="on the node: ps -eo pid,user,rss,args --sort=-rss | head; or set serve.options.gpu-memory-utilization: "
    "{fitting}",
    note="Only GPUs that have no memory but the machine's (nvidia-smi prints `[N/A]` for it: DGX Spark, Jetson); not "
    "on a node where this cluster's container runs. Available is MemAvailable, as vLLM 0.32 reads it there. Older ones "
    "count the page cache as used: sync; echo 3 > /proc/sys/vm/drop_caches.",
)
FULL = Code(
    name="unified-memory-share",
    severity=WARNING,
    title="vLLM leaves the machine little memory",
    runbook="gpus.md",
    seen="the GPU shares the machine's {total} memory, and vLLM takes {wanted} of it (gpu-memory-utilization {share}): "
    "{left} remain for all else",
    why="{reason}",
    fix="set serve.options.gpu-memory-utilization: {fitting}",
    note="With unified memory only. The reason is that Ray kills workers above its threshold, or that the machine "
    "itself stops answering.",
)
LEAST_LEFT_BYTES = 10 * 1024**3
"""What the system, the container's processes and the page cache should have. A choice, see layout/memory.py."""


@rule(Section.NVIDIA, LOW, FULL)
def unified_memory(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """As much is free as vLLM asks for, and the system keeps some."""
    share = memory_share(inventory.serve.options)
    threshold = ray_threshold(inventory) if mode_of(inventory).name == "ray" else 1.0
    for name, node in facts.nodes.items():
        total, available = node.system.memory_total_bytes, node.memory_available_bytes
        if not isinstance(total, int) or not isinstance(available, int) or runs_ours(node, inventory):
            continue
        if not any(gpu.unified for gpu in used_gpus(inventory, name, node)):
            continue
        wanted, used = int(total * share), total - available
        values: dict[str, Any] = {"total": size(total), "wanted": size(wanted), "share": f"{share:g}"}
        fitting = min(ADVISED, max(0, available - int(total * (1 - threshold))) // (total // 100) / 100)
        if wanted > available:
            yield LOW.found(name, available=size(available), fitting=f"{fitting:g}", **values)
        elif used + wanted > total * threshold:
            reason = f"Ray kills workers when more than {threshold:.0%} of the memory is used"
            yield FULL.found(name, left=size(total - wanted), reason=reason, fitting=f"{fitting:g}", **values)
        elif total - wanted < LEAST_LEFT_BYTES and share > ADVISED:
            reason = "the page cache, the container and vLLM's own start need some: without it the machine hangs"
            yield FULL.found(name, left=size(total - wanted), reason=reason, fitting=f"{ADVISED:g}", **values)
