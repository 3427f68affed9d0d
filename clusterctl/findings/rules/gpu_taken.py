"""No GPU that will be used belongs to another cluster, whether it holds memory of it at this moment or not."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.gpus import used_gpus
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.nodes import runs_ours
from clusterctl.inventory.model import Inventory

TAKEN = Code(
    name="gpu-taken",
    severity=ERROR,
    title="Another cluster has the GPUs",
    runbook="gpu-driver.md",
    seen="GPU {indices}: given to container {container} of cluster {cluster}, which runs",
    why="two servers on one GPU take each other's memory, and the second fails to start",
    fix="choose other GPUs with accelerator.devices, or stop that cluster: clusterctl down with its inventory",
    note="By the label of containers that clusterctl started; not on a node where this cluster's container runs.",
)


@rule(Section.NVIDIA, TAKEN)
def gpu_taken(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """No GPU that will be used belongs to another cluster."""
    for name, node in facts.nodes.items():
        if runs_ours(node, inventory):
            continue
        for other in node.others:
            shared = [str(gpu.index) for gpu in used_gpus(inventory, name, node) if gpu.uuid in other.gpus]
            if shared:
                yield TAKEN.found(name, indices=", ".join(shared), container=other.container, cluster=other.cluster)
