"""Accelerators and how the model is spread over them. Pure; one small function a rule."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.nvidia import NvidiaFacts
from clusterctl.findings.finding import Finding, Severity
from clusterctl.findings.rules.common import unknown
from clusterctl.inventory.layout import layout_of
from clusterctl.inventory.model import Inventory


def accelerators(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Enough accelerators on every node, the same number everywhere, and a layout that fits them (F3)."""
    wanted = inventory.accelerator.per_node
    counts: dict[str, int] = {}
    if inventory.accelerator.kind != "nvidia" and wanted == "auto":
        yield Finding(
            "gpus-unknown",
            Severity.ERROR,
            (),
            f"accelerator.per_node is auto, and accelerators of kind {inventory.accelerator.kind} are not counted",
            "how the model is spread over the nodes depends on their number",
            "set accelerator.per_node to a number (rocm-smi -i on the node)",
        )
        return
    for name, node in facts.nodes.items():
        if inventory.accelerator.kind != "nvidia":
            # Declared slots. Without rocm-smi on the node AMD's are taken as declared, too: the image brings its own.
            counts[name] = int(wanted)
            if inventory.accelerator.kind == "amd" and isinstance(node.amd_gpus, int) and node.amd_gpus < int(wanted):
                yield Finding(
                    "gpus-missing",
                    Severity.ERROR,
                    (name,),
                    f"{node.amd_gpus} GPUs by rocm-smi, accelerator.per_node says {wanted}",
                    "tensor parallelism would spill over nodes or wait for ever (F3, F45)",
                    "rocm-smi -i on the node; correct accelerator.per_node or repair the GPU",
                )
            elif inventory.accelerator.kind == "amd" and isinstance(node.amd_gpus, Unknown):
                yield Finding(
                    "gpu-state-unknown",
                    Severity.WARNING,
                    (name,),
                    f"could not be checked: {node.amd_gpus.reason}",
                    "what could not be read is not known to be right",
                    "log in to the node, repeat what failed (named above) to see why, then run clusterctl check again",
                )
        elif isinstance(node.gpus, Unknown):
            if not isinstance(node.nvidia, NvidiaFacts) or node.nvidia.version_mismatch is None:
                yield unknown("gpus-unknown", name, node.gpus)  # a mismatch of versions has its own finding
        elif node.gpus is None:
            yield Finding(
                "gpus-missing",
                Severity.ERROR,
                (name,),
                "nvidia-smi is not installed on the node",
                "accelerator.kind is nvidia",
                "install the NVIDIA driver, or correct accelerator.kind",
            )
        else:
            counts[name] = len(node.gpus)
            if len(node.gpus) < (wanted if isinstance(wanted, int) else 1):
                yield Finding(
                    "gpus-missing",
                    Severity.ERROR,
                    (name,),
                    f"{len(node.gpus)} GPUs, accelerator.per_node says {wanted}",
                    "tensor parallelism would spill over nodes or wait for ever (F3, F45)",
                    "nvidia-smi -L on the node; correct accelerator.per_node or repair the GPU",
                )
    if wanted == "auto" and len(set(counts.values())) > 1:
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        yield Finding(
            "gpus-differ",
            Severity.ERROR,
            tuple(counts),
            f"different numbers of GPUs: {shown}",
            "each node holds one pipeline stage of the same tensor-parallel size (F3)",
            "set accelerator.per_node to what all nodes have, or leave the odd node out",
        )
        return
    if counts and min(counts.values()) > 0 and not facts.unreachable:
        yield from _layout(inventory, min(counts.values()) if wanted == "auto" else int(wanted))


def _layout(inventory: Inventory, per_node: int) -> Iterator[Finding]:
    try:
        layout_of(inventory, per_node)
    except ValueError as error:
        yield Finding(
            "layout-impossible",
            Severity.ERROR,
            (),
            str(error),
            "vLLM would wait half an hour for accelerators that are not there (F45)",
            "set serve.tensor_parallel and serve.pipeline_parallel to `auto`, or to sizes that fit",
        )
