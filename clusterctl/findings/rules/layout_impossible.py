"""The layout that is asked for fits the accelerators."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.gpus import known_per_node
from clusterctl.inventory.layout import engine_room, layout_of
from clusterctl.inventory.model import Inventory

IMPOSSIBLE = Code(
    name="layout-impossible",
    severity=ERROR,
    title="The layout does not fit",
    runbook="gpus.md",
    seen="{reason}",
    why="vLLM would wait half an hour for accelerators that are not there",
    fix="set serve.tensor_parallel and serve.pipeline_parallel to `auto`, or to sizes that fit",
    note="The reason is why the sizes do not fit, with the layouts that would.",
    waivable=False,
)


@rule(Section.LAYOUT, IMPOSSIBLE)
def layout_impossible(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The layout that is asked for fits the accelerators; nothing where their number has a finding of its own."""
    per_node = known_per_node(inventory, facts)
    if per_node is None:
        return
    try:
        engine_room(len(inventory.nodes), per_node, inventory.serve.data_parallel)
    except ValueError:
        return  # mode-refused
    try:
        layout_of(inventory, per_node)
    except ValueError as error:
        yield IMPOSSIBLE.found(reason=error)
