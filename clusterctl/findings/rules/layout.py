"""The declared layout against the model: what does not divide, and what does not fit. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.findings.finding import Finding, Severity
from clusterctl.inventory.model import Inventory
from clusterctl.layout.candidate import GIB, Candidate
from clusterctl.layout.kv_cache import OVERHEAD_BYTES
from clusterctl.layout.report import Report, report


def divisible(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Heads, feed-forward sizes, quantisation blocks and layers divide (F51, F52)."""
    found = _report(inventory, facts)
    if found is None:
        return
    said = {kind: [p.text for p in found.chosen.problems if p.kind == kind] for kind in ("heads", "blocks", "layers")}
    fix = f"{_instead(found)}; clusterctl layout shows what divides"
    if said["heads"]:
        yield Finding(
            "layout-indivisible",
            Severity.ERROR,
            (),
            f"{found.arch.name}: {'; '.join(said['heads'])}",
            "vLLM refuses it, or fails on a bare assertion, after every node has started (F51)",
            fix,
        )
    if said["blocks"]:
        yield Finding(
            "layout-blocks",
            Severity.ERROR,
            (),
            f"{found.arch.name}: {'; '.join(said['blocks'])}",
            "a shard of a quantised matrix must consist of whole blocks, or it cannot be loaded (F52)",
            fix,
        )
    if said["layers"]:
        yield Finding(
            "layout-layers",
            Severity.ERROR,
            (),
            f"{found.arch.name}: {'; '.join(said['layers'])}",
            "a pipeline stage without layers, or layers without a stage, does not start",
            fix,
        )


def memory(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The weights, and the KV cache of one request of the full length, fit (F13, F59)."""
    found = _report(inventory, facts)
    if found is None or not found.chosen.stages or not found.chosen.missing_bytes:
        return
    stages = [stage for stage in found.chosen.stages if stage.kv_budget_bytes is not None]
    smallest = min(stages, key=lambda stage: stage.kv_budget_bytes or 0)
    budget = smallest.kv_budget_bytes or 0
    sizes = f"TP {found.chosen.tensor_parallel} x PP {found.chosen.pipeline_parallel}"
    # The allowance for activations is an estimate; what is short even without any is short for sure.
    surely = found.chosen.exact or found.chosen.missing_bytes > OVERHEAD_BYTES
    severity = Severity.ERROR if surely else Severity.WARNING
    lacks = f"{found.chosen.missing_bytes / GIB:.2f} GiB too much for each GPU of the fullest stage"
    if budget < 0:
        yield Finding(
            "model-too-large",
            severity,
            (),
            f"{sizes}: {(smallest.weights_bytes or 0) / GIB:.1f} GiB of weights a GPU with room for "
            f"{max(0, budget + (smallest.weights_bytes or 0)) / GIB:.1f} GiB ({lacks})",
            "loading ends in «CUDA out of memory», after minutes (F13, F59)",
            f"{_instead(found)}; or more nodes, a quantised model, a higher gpu-memory-utilization",
        )
    else:
        yield Finding(
            "kv-cache-small",
            severity,
            (),
            f"{sizes}: room for {found.chosen.kv_tokens or 0:,} tokens of KV cache, a request may have "
            f"{found.request_tokens or 0:,} ({lacks})",
            "vLLM refuses to start when not even one request of the full length fits (F13, F59)",
            f"set serve.options.max-model-len to at most {_fitting(found.chosen):,}; or {_instead(found)}",
        )


def _report(inventory: Inventory, facts: ClusterFacts) -> Report | None:
    """The report, where there is enough to make one: what is missing for it has findings of its own."""
    found = report(inventory, facts)
    return None if isinstance(found, Unknown) else found


def _instead(found: Report) -> str:
    """What would do."""
    for other in found.others:
        if other.possible:
            return (
                f"set serve.tensor_parallel: {other.tensor_parallel} and "
                f"serve.pipeline_parallel: {other.pipeline_parallel}"
            )
    return "use other numbers of nodes or accelerators: no layout of these works"


def _fitting(chosen: Candidate) -> int:
    """Longest request that fits, rounded down to a thousand where it is longer."""
    tokens = chosen.kv_tokens or 0
    return tokens // 1000 * 1000 or tokens
