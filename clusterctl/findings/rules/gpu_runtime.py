"""The engine can hand GPUs to containers."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.records import EngineFacts
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.gpus import drivers
from clusterctl.inventory.model import Inventory

MISSING = Code(
    name="gpu-runtime-missing",
    severity=ERROR,
    title="The NVIDIA runtime is missing",
    runbook="gpu-driver.md",
    seen="the engine has no NVIDIA runtime (it has: {runtimes})",
    why='the engine refuses: could not select device driver "" with capabilities: [[gpu]]',
    fix=lambda engine: (
        f"install nvidia-container-toolkit on the node, then: {engine.give_gpus}; {engine.restart}; "
        "instead of the snap, install Docker Engine from docker.com"
    ),
    note="Nor is there an nvidia-container-runtime-hook in the PATH, or a CDI specification.",
)
SNAP = MISSING.variant(
    seen="the engine has no NVIDIA runtime (it has: {runtimes}); it is Docker's snap, which does not see one that is "
    "installed on the node"
)


@rule(Section.NVIDIA, MISSING, SNAP)
def gpu_runtime(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The engine can hand GPUs to containers."""
    for name, nvidia in drivers(inventory, facts):
        node = facts.nodes[name]
        engine = node.engine
        if not isinstance(engine, EngineFacts):
            continue
        snap = engine.data_root.startswith("/var/snap/")
        # Docker knows `--gpus` by the hook in its PATH, newer ones by CDI; the runtime comes from the same package.
        # A snap's engine sees only what is inside the snap.
        outside = False if snap else nvidia.hook is True or nvidia.cdi is True
        if not outside and not any("nvidia" in runtime for runtime in engine.runtimes):
            yield (SNAP if snap else MISSING).found(name, engine=node.commands, runtimes=", ".join(engine.runtimes))
