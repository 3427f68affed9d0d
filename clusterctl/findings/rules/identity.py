"""What differs between the nodes and is not harmless, as findings. Pure; the table itself is findings/identity.py."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.finding import Finding, Severity
from clusterctl.findings.identity import Difference, Rating, differences
from clusterctl.findings.rules.common import minority
from clusterctl.inventory.model import Inventory


def identity(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Every difference that no other rule reports (F19, F41, F48, F56)."""
    for found in differences(inventory, facts):
        yield from _finding(inventory, found)


def _finding(inventory: Inventory, found: Difference) -> Iterator[Finding]:
    image = inventory.container.image
    if found.code == "ray-differs":
        yield differs("ray-differs", found, image, "bring one image to every node, best by digest: docker pull IMAGE")
    elif found.code == "vllm-differs":
        yield differs("vllm-differs", found, image, "bring one image to every node, best by digest: docker pull IMAGE")
    elif found.code == "nccl-differs":
        yield differs("nccl-differs", found, image, "the same image, and VLLM_NCCL_SO_PATH alike, on every node")
    elif found.code == "software-differs":
        yield differs("software-differs", found, image, "the same image, and container.volumes alike, on every node")
    elif found.code == "gpu-model-differs":
        yield differs("gpu-model-differs", found, image, "leave the odd node out, or waive: [gpu-model-differs]")
    elif found.code == "driver-differs":
        yield differs("driver-differs", found, image, "install the same driver on every node, and reboot it")
    elif found.code == "environment-differs":
        yield differs("environment-differs", found, image, "set it in container.env, or knowingly in nodes[].env")


def differs(code: str, found: Difference, image: str, fix: str) -> Finding:
    """A difference as a finding of the nodes outside the largest group."""
    severity = Severity.ERROR if found.rating is Rating.FAILS else Severity.WARNING
    return Finding(code, severity, minority(found.groups), found.seen, found.reason, fix.replace("IMAGE", image))
