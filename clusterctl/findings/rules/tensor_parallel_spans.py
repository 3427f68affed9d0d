"""Tensor parallel stays where the links are fast, or says what it costs that it does not."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import ERROR, WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.layout import layout_report
from clusterctl.inventory.model import Inventory

SPANS = Code(
    name="tensor-parallel-spans-nodes",
    severity=WARNING,
    unless="an error with rdma: required where no RDMA port is active",
    title="Tensor parallel spans nodes",
    runbook="layout.md",
    seen="tensor_parallel {tensor} spans {width} nodes: each token makes a rank send {amount}, {link}",
    why="every layer waits for the network twice; over TCP, two H100 served a quarter of what one of them did alone",
    fix="clusterctl layout ranks what else these nodes can do, check --nccl measures the network; where it is fast "
    "enough, waive this",
    note="The rate is that of the all-reduce with `check --nccl`, of a stream with `check --bandwidth`, and otherwise "
    "what the ports are named for.",
)


@rule(Section.LAYOUT, SPANS)
def tensor_parallel_spans(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Tensor parallel stays where the links are fast, or says what it costs that it does not."""
    found = layout_report(inventory, facts)
    if found is None or found.engines > 1 or found.chosen.pipeline_parallel >= len(found.nodes):
        return
    if found.chosen.tensor_parallel > len(found.nodes) * found.per_node:
        return  # there is no room for it, which is a finding of its own
    way = next((way for way in found.ranking.ways if way.candidate == found.chosen), None)
    link, sent = found.ranking.between, way.exchanged_bytes if way is not None else None
    slow = link is None or link.name != "RDMA"
    yield SPANS.found(
        severity=ERROR if inventory.rdma == "required" and slow else WARNING,
        tensor=found.chosen.tensor_parallel,
        width=len(found.nodes) // found.chosen.pipeline_parallel,
        amount=f"{sent / 1024:,.0f} KiB" if sent is not None else "what its layers exchange",
        link=f"over {link.text}" if link is not None else "over a network whose rate is not known",
    )
