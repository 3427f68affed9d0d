"""The engine can hand GPUs to containers."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.gpus import access, cdi_lack, in_snap, is_podman, toolkit_works
from clusterctl.facts.cdi import NVIDIA_GPU
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.records import EngineFacts
from clusterctl.findings.code import ERROR, Code, literal
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
    note="Nor is there an nvidia-container-runtime-hook in the PATH. Not where GPUs are asked for by CDI.",
)
SNAP = MISSING.variant(
    seen="the engine has no NVIDIA runtime (it has: {runtimes}); it is Docker's snap, which does not see one that is "
    "installed on the node"
)
UNUSED = MISSING.variant(
    seen="the engine has no NVIDIA runtime (it has: {runtimes}), and CDI is switched off, so that it does not "
    "read {specification}",
    fix=lambda engine: literal(engine.switch_cdi_on),
)
BY_CDI_ONLY = MISSING.variant(
    seen="accelerator.request is toolkit, and Podman gives GPUs by CDI only",
    fix=lambda engine: f"set accelerator.request: cdi, or leave it out; on the node: {engine.give_gpus}",
)


@rule(Section.NVIDIA, MISSING, SNAP, UNUSED, BY_CDI_ONLY)
def gpu_runtime(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The engine can hand GPUs to containers."""
    for name, _ in drivers(inventory, facts):
        node = facts.nodes[name]
        engine = node.engine
        if not isinstance(engine, EngineFacts) or access(inventory, node)[0] == "cdi" or toolkit_works(node):
            continue
        unused = [spec.path for spec in node.cdi if spec.kind == NVIDIA_GPU] if isinstance(node.cdi, tuple) else []
        by_cdi = unused and cdi_lack(node) == "off" and inventory.accelerator.request == "auto"
        code = UNUSED if by_cdi else SNAP if in_snap(engine) else BY_CDI_ONLY if is_podman(node) else MISSING
        runtimes = ", ".join(engine.runtimes)
        yield code.found(name, engine=node.commands, runtimes=runtimes, specification=", ".join(unused))
