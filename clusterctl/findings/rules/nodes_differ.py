"""What differs between the nodes and is not harmless, as findings; the table itself is findings/identity.py."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import ERROR, WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.identity import Rating, differences
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.nodes import commands_of, minority
from clusterctl.inventory.model import Inventory

RUNBOOK = "nodes-differ.md"
SEEN = "{what}: {nodes_and_values}"

RAY = Code(
    name="ray-differs",
    severity=ERROR,
    title="Ray or Python differs",
    runbook=RUNBOOK,
    seen=SEEN,
    why="Ray refuses a node with another version",
    fix=lambda engine: f"bring one image to every node, best by digest: {engine.pull('{image}')}",
    note="The version of Ray, or of Python, whose patch level counts too.",
)
VLLM = Code(
    name="vllm-differs",
    severity=ERROR,
    title="vLLM differs",
    runbook=RUNBOOK,
    seen=SEEN,
    why="the ranks exchange pickled objects of vLLM's own",
    fix=lambda engine: f"bring one image to every node, best by digest: {engine.pull('{image}')}",
)
NCCL = Code(
    name="nccl-differs",
    severity=ERROR,
    title="NCCL differs",
    runbook=RUNBOOK,
    seen=SEEN,
    why='the first collective fails: "receiving 524288 bytes instead of 65536"',
    fix="use the same image, and the same VLLM_NCCL_SO_PATH, on every node",
    note="The version is what NCCL itself reports.",
)
SOFTWARE = Code(
    name="software-differs",
    severity=WARNING,
    title="Python packages differ",
    runbook=RUNBOOK,
    seen=SEEN,
    why="ranks may compute differently, or not at all; or it is another image, or a volume hides a part of it",
    fix="use the same image, and the same container.volumes, on every node",
    note="torch, CUDA of torch, transformers, or Python distributions. Of the distributions a digest over all of "
    "them and the first that differ are shown.",
)
GPU_MODEL = Code(
    name="gpu-model-differs",
    severity=WARNING,
    title="GPUs of different models",
    runbook=RUNBOOK,
    seen=SEEN,
    why="the gang is as fast as its slowest GPU, and every rank gets the KV cache of the smallest",
    fix="leave the odd node out, or waive: [gpu-model-differs]",
    note="The GPU model, or the GPU memory.",
)
DRIVER = Code(
    name="driver-differs",
    severity=WARNING,
    title="NVIDIA drivers differ",
    runbook=RUNBOOK,
    seen=SEEN,
    why="the driver determines which CUDA runs, and the fabric manager must match it",
    fix="install the same driver on every node, and reboot it",
)
ENVIRONMENT = Code(
    name="environment-differs",
    severity=WARNING,
    title="Settings differ",
    runbook=RUNBOOK,
    seen=SEEN,
    why="a setting of NCCL, Ray or vLLM should be the same on all nodes",
    fix="set it in container.env, or deliberately in nodes[].env",
    note="Variables `NCCL_*`, `VLLM_*`, `RAY_*` and the like in the container; of what may be a secret only "
    "whether it is set.",
)
CODES = (RAY, VLLM, NCCL, SOFTWARE, GPU_MODEL, DRIVER, ENVIRONMENT)


@rule(Section.DIFFERENCES, *CODES)
def nodes_differ(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Every difference that no other rule reports, as a finding of the nodes outside the largest group."""
    by_name = {code.name: code for code in CODES}
    for found in differences(inventory, facts):
        if code := by_name.get(found.code or ""):
            yield code.variant(why=found.reason).found(
                *minority(found.groups),
                engine=commands_of(facts),
                severity=ERROR if found.rating is Rating.FAILS else WARNING,
                what=found.title,
                nodes_and_values=found.values,
                image=inventory.container.image,
            )
