"""Where the node has RDMA devices, the container has them and the libraries."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.rdma import devices_passed
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.image import has_verbs, numbers, reports
from clusterctl.inventory.model import Inventory

OLDEST_NCCL_WITH_DMABUF_SYMBOL = (2, 27)
"""First NCCL that looks for mlx5dv_reg_dmabuf_mr."""

NO_DEVICES = Code(
    name="rdma-not-in-container",
    severity=WARNING,
    title="RDMA devices are not in the container",
    runbook="image-report.md",
    seen="the node has /dev/infiniband/uverbs*, the container has none",
    why='NCCL falls back to TCP silently: "NET/IB : No device found"',
    fix="on the node: ls -l /dev/infiniband; leave container.devices without another /dev/infiniband",
)
NO_LIBIBVERBS = Code(
    name="libibverbs-missing",
    severity=WARNING,
    title="The image has no libibverbs",
    runbook="image-report.md",
    seen="libibverbs.so.1 cannot be loaded in {image}, and the node has RDMA devices",
    why="NCCL opens it at run time and falls back to TCP without it",
    fix="add it to the image: apt-get install libibverbs1 ibverbs-providers (package rdma-core)",
)
OLD_LIBMLX5 = Code(
    name="libmlx5-old",
    severity=WARNING,
    title="The image's libmlx5 is old",
    runbook="image-report.md",
    seen="{file} in the image has no mlx5dv_reg_dmabuf_mr, which NCCL {version} looks for",
    why='"dlvsym failed on mlx5dv_…": on newer adapters all-to-all and point-to-point transfers may fail',
    fix="add a newer rdma-core to the image (the distribution's backports, or NVIDIA's DOCA packages)",
    note="NCCL looks for it from 2.27 on.",
)


@rule(Section.IMAGE_REPORT, NO_DEVICES, NO_LIBIBVERBS, OLD_LIBMLX5)
def rdma_in_container(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Where the node has RDMA devices, the container has them and the libraries."""
    for name, node, report in reports(facts):
        if not devices_passed(inventory.rdma, node) or not has_verbs(node.infiniband):
            continue
        if not has_verbs(report.infiniband):
            yield NO_DEVICES.found(name)
        if not report.libibverbs:
            yield NO_LIBIBVERBS.found(name, image=inventory.container.image)
        elif report.mlx5_dmabuf is False and numbers(report.nccl) >= OLDEST_NCCL_WITH_DMABUF_SYMBOL:
            yield OLD_LIBMLX5.found(name, file=report.libmlx5, version=report.nccl)
