"""The cluster's container has the GPUs that it was started with: an index may mean another one after a reboot."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.agent.labels import LABEL_GPUS
from clusterctl.deployment.gpus import used_gpus
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

MOVED = Code(
    name="gpu-moved",
    severity=WARNING,
    title="Indices mean other GPUs",
    runbook="gpu-driver.md",
    seen="the container was started with {then}; what it asks for is {now} by now",
    why="GPUs were added, removed or numbered anew: it may meet another cluster's on them",
    fix="nvidia-smi -L; give accelerator.devices (or the node's gpus) as UUIDs, then clusterctl up",
    note="By the label of the container that runs.",
)


@rule(Section.NVIDIA, MOVED)
def gpu_moved(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The cluster's container has the GPUs that it was started with."""
    for name, node in facts.nodes.items():
        now = [gpu.uuid for gpu in used_gpus(inventory, name, node)]
        for container in node.containers if isinstance(node.containers, tuple) else ():
            then = list(filter(None, container.labels.get(LABEL_GPUS, "").split(",")))
            # Fewer were asked for than there are: what the container uses is decided by its layout.
            if container.running and then and now and not set(then) <= set(now):
                yield MOVED.found(name, then=", ".join(then), now=", ".join(now))
