"""Heads, feed-forward sizes, quantisation blocks and layers divide."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.layout import instead, layout_report
from clusterctl.inventory.model import Inventory

FIX = "{another_layout}; clusterctl layout shows what divides"
INSTEAD = "Another layout is `set serve.tensor_parallel: N and serve.pipeline_parallel: M`, where any layout would do."

HEADS = Code(
    name="layout-indivisible",
    severity=ERROR,
    title="TP does not divide the model",
    runbook="layout.md",
    seen="{architecture}: {problems}",
    why="vLLM refuses it, or fails on a bare assertion, after every node has started",
    fix=FIX,
    note=f"Problems are attention heads, KV heads or the feed-forward size that TP does not divide. {INSTEAD}",
)
BLOCKS = Code(
    name="layout-blocks",
    severity=ERROR,
    title="TP splits quantisation blocks",
    runbook="layout.md",
    seen="{architecture}: {problems}",
    why="a shard of a quantised matrix must consist of whole blocks, or it cannot be loaded",
    fix=FIX,
    note=f"The problem is a feed-forward size that TP divides into parts of a quantisation block or group. {INSTEAD}",
)
LAYERS = Code(
    name="layout-layers",
    severity=ERROR,
    title="More stages than layers",
    runbook="layout.md",
    seen="{architecture}: {problems}",
    why="a pipeline stage without layers, or layers without a stage, does not start",
    fix=FIX,
    note=f"N layers are fewer than M pipeline stages, or VLLM_PP_LAYER_PARTITION does not fit. {INSTEAD}",
)
ENCODER = Code(
    name="layout-encoder",
    severity=ERROR,
    title="TP does not divide the encoder",
    runbook="layout.md",
    seen="{architecture}: {problems}",
    why="vLLM divides the encoder of images or sound by TP too, and fails on a bare assertion after every node has "
    "started",
    fix=f"{FIX}; where only text is served: serve.options.language-model-only: true",
    note=f"{INSTEAD} Models that divide their encoder in no case, or do without by themselves, are left out.",
)
ENCODER_WHOLE = ENCODER.variant(
    fix="set serve.options.mm-encoder-tp-mode: data (each rank then has the whole encoder, and takes a part of the "
    "images); or {another_layout}"
)


@rule(Section.LAYOUT, HEADS, BLOCKS, LAYERS, ENCODER, ENCODER_WHOLE)
def layout_divides(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Heads, feed-forward sizes, quantisation blocks and layers divide."""
    found = layout_report(inventory, facts)
    if found is None:
        return
    for kind, code in (("heads", HEADS), ("blocks", BLOCKS), ("layers", LAYERS)):
        if problems := "; ".join(p.text for p in found.chosen.problems if p.kind == kind):
            yield code.found(architecture=found.arch.name, problems=problems, another_layout=instead(found))
    if problems := "; ".join(p.text for p in found.chosen.problems if p.kind == "tower"):
        code = ENCODER_WHOLE if all(tower.data_mode for tower in found.arch.towers) else ENCODER
        yield code.found(architecture=found.arch.name, problems=problems, another_layout=instead(found))
