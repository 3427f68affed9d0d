"""The GPUs are whole, and several processes may use them."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.gpus import used_gpus
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import ERROR, WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

MIG = Code(
    name="gpu-mig",
    severity=ERROR,
    unless="a warning with one GPU a node",
    title="MIG is on",
    runbook="gpu-driver.md",
    seen="MIG is on for GPU {indices}",
    why="a process sees one instance of a divided GPU, and instances cannot work together",
    fix="on the node, with nothing running on it: nvidia-smi -i {list} -mig 0",
)
COMPUTE_MODE = Code(
    name="gpu-compute-mode",
    severity=ERROR,
    unless="a warning for Exclusive_Process",
    title="A compute mode",
    runbook="gpu-driver.md",
    seen="compute mode {mode} on GPU {indices}",
    why="vLLM's processes share a GPU briefly while they start, and Prohibited lets none compute",
    fix="on the node: nvidia-smi -i {indices} -c DEFAULT",
)


@rule(Section.NVIDIA, MIG, COMPUTE_MODE)
def gpu_sharing(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The GPUs are whole, and several processes may use them."""
    for name, node in facts.nodes.items():
        gpus = used_gpus(inventory, name, node)
        divided = [str(gpu.index) for gpu in gpus if gpu.mig]
        if divided:
            # With one GPU a node its first instance is used; two instances cannot work together (CUDA shows a process
            # one instance only, and NCCL knows no path between them).
            severity = ERROR if len(gpus) > 1 else WARNING
            yield MIG.found(name, severity=severity, indices=", ".join(divided), list=",".join(divided))
        for mode in sorted({gpu.compute_mode for gpu in gpus} - {"Default"}):
            which = ",".join(str(gpu.index) for gpu in gpus if gpu.compute_mode == mode)
            severity = ERROR if mode == "Prohibited" else WARNING
            yield COMPUTE_MODE.found(name, severity=severity, mode=mode, indices=which)
