"""At which load a cluster is saturated, and what would help then. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clusterctl.records.benchmark import Level, Load, Saturation

SATURATED = 0.9
"""Fraction of the greatest throughput: what is beyond is bought with waiting."""

MOST_CONCURRENCY = 1024


@dataclass(frozen=True)
class Limits:
    """What keeps requests of a server waiting, as far as it is known."""

    engines: int
    kv_tokens: int | None
    """Of one engine."""
    max_num_seqs: int | None
    """Of one engine."""


def next_load(levels: Sequence[Level]) -> Load | None:
    """The next load of a sweep that looks for the end: twice as many at once, until that adds less than a tenth to the
    throughput."""
    if not levels:
        return Load(concurrency=1)
    *before, last = levels
    best = max((level.tokens_per_s.middle for level in before), default=0.0)
    amount = last.load.concurrency or 0
    if last.tokens_per_s.middle < best / SATURATED or amount >= MOST_CONCURRENCY:
        return None
    return Load(concurrency=amount * 2)


def saturation(levels: Sequence[Level], limits: Limits) -> Saturation:
    """Of levels of one kind of requests, by load: the lowest load that reaches 90% of the greatest throughput."""
    best = max(level.tokens_per_s.middle for level in levels)
    knee = next(level for level in levels if level.tokens_per_s.middle >= best * SATURATED)
    traffic, highest = knee.traffic, levels[-1]
    if len(levels) == 1:
        rule = f"{highest.tokens_per_s.middle:.0f} tokens/s at {highest.load}, the only load that was measured"
        return Saturation(traffic, None, rule, "saturation shows between loads: measure several (--concurrency)")
    if knee is highest:
        rule = (
            f"{highest.tokens_per_s.middle:.0f} tokens/s at {highest.load}, the highest load that was tried, and rising"
        )
        return Saturation(traffic, None, rule, "nothing is saturated: try higher loads before adding anything")
    rule = (
        f"{knee.load} reach {knee.tokens_per_s.middle / best:.0%} of the greatest throughput ({best:.0f} tokens/s); at "
        f"{highest.load} the median time to the first token is {_times(knee, highest)}"
    )
    return Saturation(traffic, knee.load, rule, _advice(knee, limits))


def _times(knee: Level, highest: Level) -> str:
    before, after = (level.latency("ttft", "p50").middle for level in (knee, highest))
    return f"{after:.0f} ms instead of {before:.0f} ms"


def _advice(knee: Level, limits: Limits) -> str:
    """What holds requests back from this load on: the first limit that it meets, else the accelerators."""
    wanted = knee.load.concurrency
    tokens = knee.traffic.input_tokens + knee.traffic.output_tokens
    if wanted is not None and limits.max_num_seqs is not None and wanted >= limits.max_num_seqs * limits.engines:
        return (
            f"more than max-num-seqs x engines = {limits.max_num_seqs * limits.engines} requests wait in the queue: "
            "raise serve.options.max-num-seqs first; another engine or node adds as many again"
        )
    if wanted is not None and limits.kv_tokens is not None and wanted >= limits.kv_tokens * limits.engines // tokens:
        return (
            f"the KV cache holds {limits.kv_tokens * limits.engines // tokens} requests of {tokens} tokens: another "
            "engine or node helps from here on, and so does a smaller KV cache a token (kv-cache-dtype: fp8)"
        )
    return (
        f"the accelerators are busy: beyond {knee.load} another engine (serve.data_parallel) or another node adds "
        "throughput, and nothing else does"
    )
