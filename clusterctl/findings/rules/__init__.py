"""From what was asked for and what is there to findings. Pure."""

from __future__ import annotations

from dataclasses import replace

from clusterctl.facts.model import ClusterFacts
from clusterctl.findings.finding import Finding
from clusterctl.findings.rules import accelerators, identity, image, image_report, model, model_drift, network, nodes
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
    accelerators.accelerators,
    network.ports,
)
"""Every rule, in the order in which findings are shown."""


def check(inventory: Inventory, facts: ClusterFacts) -> tuple[Finding, ...]:
    """Every finding, in the order of RULES and of the inventory's nodes; those that the inventory waives say so."""
    findings = (finding for rule in RULES for finding in rule(inventory, facts))
    return tuple(replace(finding, waived=finding.code in inventory.waive) for finding in findings)
