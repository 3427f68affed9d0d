"""From what was asked for and what is there to findings. Pure."""

from __future__ import annotations

from dataclasses import replace

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.finding import Finding
from clusterctl.findings.rules import (
    accelerators,
    collective,
    gpu,
    identity,
    image,
    image_report,
    layout,
    model,
    model_drift,
    network,
    nodes,
    pairs,
    rdma,
    rdma_devices,
    security,
    system,
)
from clusterctl.inventory.model import Inventory

RULES = (
    nodes.unreachable,
    nodes.engine,
    image.image,
    nodes.strangers_name,
    image_report.container_starts,
    image_report.software,
    image_report.gpus_inside,
    image_report.cuda_and_driver,
    image_report.shared_memory,
    image_report.locked_memory,
    image_report.rdma_inside,
    image_report.architecture,
    identity.identity,
    network.addresses,
    security.public_addresses,
    security.public_api,
    security.secrets_in_inventory,
    model.model,
    model.pointers,
    model.links,
    model.shards,
    model.damage,
    model.tokenizer,
    model.unfinished,
    model.unverified,
    model_drift.drift,
    model_drift.bytes_differ,
    gpu.driver_mismatch,
    accelerators.accelerators,
    layout.divisible,
    layout.memory,
    gpu.runtime,
    gpu.fabric,
    gpu.divided,
    gpu.held,
    gpu.memory_errors,
    gpu.lost_on_reload,
    gpu.isolation,
    gpu.unread,
    rdma.rdma,
    rdma_devices.ports_down,
    rdma_devices.alike,
    rdma_devices.gpudirect,
    rdma_devices.roce_gids,
    system.memlock,
    system.disks,
    system.memory,
    system.clocks,
    system.own_name,
    system.unread,
    network.ports,
    pairs.pairs,
    collective.collective,
)
"""Every rule, in the order in which findings are shown."""


def check(inventory: Inventory, facts: ClusterFacts) -> tuple[Finding, ...]:
    """Every finding, in the order of RULES and of the inventory's nodes; those that the inventory waives say so."""
    findings = (finding for rule in RULES for finding in rule(inventory, facts))
    return tuple(replace(finding, waived=finding.code in inventory.waive) for finding in findings)
