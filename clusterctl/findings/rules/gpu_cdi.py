"""The engine gives GPUs by CDI: NVIDIA's from a specification of the loaded driver, AMD's where that is asked for."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.gpus import access, cdi_lack, gpu_request, offered
from clusterctl.facts.cdi import AMD_GPU, NVIDIA_GPU
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.nvidia import KernelModule
from clusterctl.facts.records import EngineFacts
from clusterctl.findings.code import ERROR, Code, literal
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.gpus import drivers, known_per_node
from clusterctl.inventory.model import Inventory

GENERATE = "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"

NO_SPEC = Code(
    name="gpu-cdi-missing",
    severity=ERROR,
    title="GPUs cannot be given by CDI",
    runbook="gpu-driver.md",
    seen=f"no CDI specification has {NVIDIA_GPU} (looked in {{where}})",
    why='the engine refuses: could not select device driver "cdi", or unresolvable CDI devices',
    fix=f"on the node: {GENERATE} (of nvidia-container-toolkit-base); the engine sees it without a restart",
    note="Where `accelerator.request` is `cdi`, or `auto` and there is no toolkit.",
)
OFF = NO_SPEC.variant(
    seen="the engine ({version}) gives no devices by CDI: it is switched off",
    fix=lambda engine: literal(engine.switch_cdi_on),
)
OLD = NO_SPEC.variant(
    seen="the engine is {version}: it does not know CDI, which came with Docker 25",
    fix="install a newer engine (28.3 and later have CDI switched on), or set accelerator.request: toolkit",
)
AMD_GENERATE = "amd-ctk cdi generate --output=/etc/cdi/amd.json"
"""AMD Container Toolkit, guide of CDI: one device a GPU, named by its index, and `all`."""
NO_SPEC_OF_AMD = NO_SPEC.variant(
    seen=f"no CDI specification has {AMD_GPU} (looked in {{where}})",
    fix=f"on the node: {AMD_GENERATE} (of amd-container-toolkit); the engine sees it without a restart",
)
NOT_IN_SPEC_OF_AMD = NO_SPEC.variant(
    seen=f"the CDI specification of {AMD_GPU} has no {{which}} (it has: {{names}})",
    fix=f"on the node: {AMD_GENERATE}; or correct accelerator.devices (or the node's gpus)",
)
OLD_FOR_AMD = OLD.variant(
    fix="install a newer engine (28.3 and later have CDI switched on), or remove accelerator.request"
)
STALE = Code(
    name="gpu-cdi-stale",
    severity=ERROR,
    title="The CDI specification is of another driver",
    runbook="gpu-driver.md",
    seen="{path} is of driver {specified}, and {loaded} is loaded",
    why="the files of the driver that it mounts are gone, and the engine does not start a container without them",
    fix=f"on the node: {GENERATE}; the engine sees it without a restart",
    note="By the libcuda.so that the specification mounts.",
)


@rule(Section.NVIDIA, NO_SPEC, OFF, OLD, NO_SPEC_OF_AMD, NOT_IN_SPEC_OF_AMD, OLD_FOR_AMD, STALE)
def gpu_cdi(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The engine gives GPUs by CDI: NVIDIA's from a specification of the driver that is loaded."""
    if inventory.accelerator.kind == "amd" and inventory.accelerator.request == "cdi":
        for name, node in facts.nodes.items():
            yield from _of_amd(inventory, name, node)
    for name, nvidia in drivers(inventory, facts):
        node = facts.nodes[name]
        if not isinstance(node.engine, EngineFacts) or access(inventory, node)[0] != "cdi":
            continue
        lack = cdi_lack(node)
        if lack is not None:
            code = {"old": OLD, "off": OFF, "no specification": NO_SPEC}[lack]
            where = ", ".join(node.engine.cdi_directories)
            yield code.found(name, engine=node.commands, version=node.engine.version, where=where)
        elif isinstance(nvidia.module, KernelModule):
            yield from _stale(name, node, nvidia.module.version)


def _of_amd(inventory: Inventory, name: str, node: NodeFacts) -> Iterator[Finding]:
    if not isinstance(node.engine, EngineFacts):
        return
    lack = cdi_lack(node, AMD_GPU)
    if lack is not None:
        code = {"old": OLD_FOR_AMD, "off": OFF, "no specification": NO_SPEC_OF_AMD}[lack]
        where = ", ".join(node.engine.cdi_directories)
        yield code.found(name, engine=node.commands, version=node.engine.version, where=where)
        return
    request = gpu_request(inventory, name, node, known_per_node(inventory, ClusterFacts({name: node}, {})) or 1)
    names = offered(node, AMD_GPU)
    missing = [each for each in request.names if each not in names] if request and names else []
    if missing:
        yield NOT_IN_SPEC_OF_AMD.found(name, which=", ".join(missing), names=", ".join(sorted(names or ())))


def _stale(name: str, node: NodeFacts, loaded: str) -> Iterator[Finding]:
    for spec in node.cdi if isinstance(node.cdi, tuple) else ():
        if spec.kind == NVIDIA_GPU and spec.driver not in (None, loaded):
            yield STALE.found(name, path=spec.path, specified=spec.driver, loaded=loaded)
