"""Accelerators: how many each node has, and which of them the container will be given."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.gpus import usable_gpus
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.nvidia import NvidiaFacts
from clusterctl.inventory.model import Inventory


def is_countable(inventory: Inventory) -> bool:
    """Whether the number of accelerators is known: declared, or read from NVIDIA's driver."""
    return inventory.accelerator.kind == "nvidia" or inventory.accelerator.per_node != "auto"


def counts(inventory: Inventory, facts: ClusterFacts) -> dict[str, int]:
    """How many accelerators each node has, where it is known. Those of other kinds than NVIDIA's are taken as declared:
    without rocm-smi on the node AMD's are too, since the image brings its own."""
    declared = inventory.accelerator.per_node
    if inventory.accelerator.kind != "nvidia":
        return dict.fromkeys(facts.nodes, declared) if isinstance(declared, int) else {}
    return {name: len(usable_gpus(inventory, name, n)) for name, n in facts.nodes.items() if isinstance(n.gpus, tuple)}


def drivers(inventory: Inventory, facts: ClusterFacts) -> Iterator[tuple[str, NvidiaFacts]]:
    """Every node whose NVIDIA driver was read."""
    if inventory.accelerator.kind == "nvidia":
        for name, node in facts.nodes.items():
            if isinstance(node.nvidia, NvidiaFacts):
                yield name, node.nvidia


def own_memory(node: NodeFacts) -> bool:
    """Whether the GPUs have memory of their own. Unified memory (DGX Spark) is the machine's: an HCA reaches it without
    help, and NCCL never reports GDRDMA (failure-modes.md, F31)."""
    return isinstance(node.gpus, tuple) and any(gpu.memory_total_mib is not None for gpu in node.gpus)


def known_per_node(inventory: Inventory, facts: ClusterFacts) -> int | None:
    """Accelerators used on each node; None where their number is not known, or has a finding of its own."""
    wanted, found = inventory.accelerator.per_node, set(counts(inventory, facts).values())
    if not found or min(found) == 0 or facts.unreachable or (wanted == "auto" and len(found) > 1):
        return None
    return min(found) if wanted == "auto" else int(wanted)
