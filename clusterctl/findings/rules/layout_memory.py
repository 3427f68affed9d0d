"""The weights fit, and the KV cache of one request of the full length."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import ERROR, WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.layout import instead, layout_report
from clusterctl.inventory.model import Inventory
from clusterctl.layout.candidate import GIB, Candidate
from clusterctl.layout.kv_cache import OVERHEAD_BYTES

UNLESS = "a warning where only the allowance for activations, an estimate, is missing"

WEIGHTS = Code(
    name="model-too-large",
    severity=ERROR,
    unless=UNLESS,
    title="The model is too large",
    runbook="layout.md",
    seen="TP {n} x PP {m}: {weights} GiB of weights a GPU with room for {room} GiB ({lacking} GiB too much for "
    "each GPU of the fullest stage)",
    why='loading ends in "CUDA out of memory", after minutes',
    fix="{another_layout}; or more nodes, a quantised model, a higher gpu-memory-utilization",
    note="Another layout is `set serve.tensor_parallel: N and serve.pipeline_parallel: M`, where any layout would do.",
)
KV_CACHE = Code(
    name="kv-cache-small",
    severity=ERROR,
    unless=UNLESS,
    title="The KV cache is too small",
    runbook="layout.md",
    seen="TP {n} x PP {m}: room for {room} tokens of KV cache, a request may have {wanted} ({lacking} GiB too "
    "much for each GPU of the fullest stage)",
    why="vLLM refuses to start when not even one request of the full length fits",
    fix="set serve.options.max-model-len to at most {fitting}; or {another_layout}",
    note="Another layout is named where any would do.",
)


@rule(Section.LAYOUT, WEIGHTS, KV_CACHE)
def layout_memory(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The weights fit, and the KV cache of one request of the full length."""
    found = layout_report(inventory, facts)
    if found is None:
        return
    chosen, missing = found.chosen, found.chosen.missing_bytes
    if not chosen.stages or not missing:
        return
    stages = [stage for stage in chosen.stages if stage.kv_budget_bytes is not None]
    smallest = min(stages, key=lambda stage: stage.kv_budget_bytes or 0)
    budget, weights = smallest.kv_budget_bytes or 0, smallest.weights_bytes or 0
    # The allowance for activations is an estimate; what is short even without any is short for sure.
    surely = chosen.exact or missing > OVERHEAD_BYTES
    severity = ERROR if surely else WARNING
    lacking = f"{missing / GIB:.2f}"
    if budget < 0:
        yield WEIGHTS.found(
            severity=severity,
            n=chosen.tensor_parallel,
            m=chosen.pipeline_parallel,
            weights=f"{weights / GIB:.1f}",
            room=f"{max(0, budget + weights) / GIB:.1f}",
            lacking=lacking,
            another_layout=instead(found),
        )
    else:
        yield KV_CACHE.found(
            severity=severity,
            n=chosen.tensor_parallel,
            m=chosen.pipeline_parallel,
            room=f"{chosen.kv_tokens or 0:,}",
            wanted=f"{found.request_tokens or 0:,}",
            lacking=lacking,
            fitting=f"{_fitting(chosen):,}",
            another_layout=instead(found),
        )


def _fitting(chosen: Candidate) -> int:
    """Longest request that fits, rounded down to a thousand where it is longer."""
    tokens = chosen.kv_tokens or 0
    return tokens // 1000 * 1000 or tokens
