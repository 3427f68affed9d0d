"""The GPUs that will be used are free. Who holds them is named; nothing is ended."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.gpus import used_gpus
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.records import Gpu, GpuProcess
from clusterctl.findings.code import ERROR, WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.nodes import runs_ours
from clusterctl.inventory.model import Inventory
from clusterctl.layout.load import memory_share
from clusterctl.layout.memory import COHERENT

HELD = Code(
    name="gpu-memory-held",
    severity=ERROR,
    unless="a warning where as much is free as vLLM's `gpu-memory-utilization` asks for",
    title="GPU memory is held",
    runbook="gpu-driver.md",
    seen="GPU {index}: {used} of {total} MiB in use, by {process}",
    why="vLLM asks for {share} of the memory to be free when it starts",
    fix="on the node: nvidia-smi; ps -o pid,user,lstart,args -p PID; end what is yours, or use other GPUs",
    note="A process is shown as `NAME (pid PID, N MiB)`, with its container and cluster where it is in one, or as no "
    "process that is visible. Only GPUs that will be used; not on a node where this cluster's container runs.",
)
UNIFIED = HELD.variant(
    seen="GPU {index}: its memory, which is the machine's, is in use by {process}",
    why="vLLM asks for {share} of the machine's memory to be free when it starts",
)
COHERENT_HELD = HELD.variant(
    why="vLLM asks for {share} of the memory to be free when it starts; this GPU's HBM may be a NUMA node of the "
    "machine too, and then the page cache lies in it",
    fix="on the node: nvidia-smi; end what is yours; where no process is shown: numactl -H shows the nodes, and "
    "sync; echo 3 > /proc/sys/vm/drop_caches empties the page cache",
)


@rule(Section.NVIDIA, HELD, UNIFIED, COHERENT_HELD)
def gpu_memory_held(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The GPUs that will be used are free. Who holds them is named; nothing is ended."""
    share = memory_share(inventory.serve.options)
    for name, node in facts.nodes.items():
        if runs_ours(node, inventory):
            continue
        for gpu in used_gpus(inventory, name, node):
            total, used = gpu.memory_total_mib, gpu.memory_used_mib
            holders = _holders(node, gpu)
            too_little = total is not None and used is not None and total - used < share * total
            if holders or too_little:
                yield _wording(gpu, holders).found(
                    name,
                    severity=ERROR if too_little else WARNING,
                    index=gpu.index,
                    used="?" if used is None else used,
                    total="?" if total is None else total,
                    process=", ".join(holders) or "no process that is visible",
                    share=f"{share:.0%}",
                )


def _wording(gpu: Gpu, holders: list[str]) -> Code:
    if gpu.unified:
        return UNIFIED
    return COHERENT_HELD if COHERENT.search(gpu.name) and not holders else HELD


def _holders(node: NodeFacts, gpu: Gpu) -> list[str]:
    known = node.gpu_processes if isinstance(node.gpu_processes, tuple) else ()
    return [f"{p.name} (pid {p.pid}{_mib(p.memory_mib)}{_place(node, p)})" for p in known if p.gpu_uuid == gpu.uuid]


def _place(node: NodeFacts, process: GpuProcess) -> str:
    """Whose it is: of another cluster, or in another container."""
    other = next((each for each in node.others if process.pid in each.pids), None)
    if other is not None:
        return f", in container {other.container} of cluster {other.cluster}"
    return "" if process.container is None else f", in container {process.container}"


def _mib(size: int | None) -> str:
    return "" if size is None else f", {size} MiB"
