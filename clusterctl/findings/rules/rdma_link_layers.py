"""The RDMA ports that NCCL would use are of one kind: InfiniBand and Ethernet cannot communicate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from clusterctl.deployment.rdma import ports_of_network
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.nodes import minority
from clusterctl.findings.topics.rdma import UNLESS_REQUIRED, severity_of_missing
from clusterctl.inventory.model import Inventory

DIFFER = Code(
    name="rdma-link-layers-differ",
    severity=WARNING,
    unless=UNLESS_REQUIRED,
    title="Two kinds of ports",
    runbook="network.md",
    seen="the RDMA ports that NCCL would use: {layers}",
    why="an InfiniBand port and an Ethernet port cannot communicate: the first collective hangs",
    fix="bring up the same kind of port on every node, or name the ports yourself: container.env NCCL_IB_HCA",
    note="Shown as `InfiniBand on NODES; Ethernet on NODES`.",
)


@rule(Section.RDMA, DIFFER)
def rdma_link_layers(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The RDMA ports that NCCL would use are of one kind."""
    if inventory.rdma == "off":
        return
    by_layer: dict[str, list[str]] = defaultdict(list)
    for name in facts.nodes:
        if used := ports_of_network(inventory, name, facts).used:
            by_layer[used[0].link_layer].append(name)
    if len(by_layer) > 1:
        layers = "; ".join(f"{layer} on {', '.join(names)}" for layer, names in by_layer.items())
        yield DIFFER.found(*minority(by_layer), severity=severity_of_missing(inventory), layers=layers)
