"""Two records of `bench`: what is faster, slower, or within the spread."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.records.benchmark import Benchmark, Level
from clusterctl.records.difference import Comparison, Difference, Same, told
from clusterctl.records.spread import Spread, judged

MARGIN = 0.05
"""Fraction by which the ranges of both records are widened: few runs do not show the whole spread."""

MEASURES = (("tokens/s", None), ("time to first token, median", "ttft"), ("between tokens, median", "itl"))
"""What is compared, with its metric; None: the throughput."""


def compare(old: Benchmark, new: Benchmark, *, where: str) -> Comparison:
    """The newer record against the older, level by level."""
    found = [*_what_ran(old, new), *_levels(old, new)]
    return Comparison(
        old=f"{where} of {old.made_at}",
        differences=tuple(each for each in found if isinstance(each, Difference)),
        same=tuple(each for each in found if isinstance(each, Same)),
    )


def _what_ran(old: Benchmark, new: Benchmark) -> Iterator[Difference]:
    if old.model != new.model:
        yield Difference("model", old.model, new.model, True, "speeds of two models are no comparison")
    why = "the speeds say what it does"
    yield from told("clusterctl", old.clusterctl, new.clusterctl, "it does not measure: vLLM does")
    yield from told("vLLM", old.vllm, new.vllm, why)
    yield from told("layout", str(old.shape), str(new.shape), why)
    yield from told("image", old.image, new.image, why)
    yield from told("KV cache of an engine", old.kv_tokens, new.kv_tokens, why)


def _levels(old: Benchmark, new: Benchmark) -> Iterator[Difference | Same]:
    earlier = {(level.traffic, level.load): level for level in old.levels}
    both = [level for level in new.levels if (level.traffic, level.load) in earlier]
    if not both:
        why = "no load is in both records: give the same --shape and --concurrency"
        yield Difference("loads", _loads(old), _loads(new), True, why)
    for level in both:
        before = earlier[level.traffic, level.load]
        where = f"{level.traffic}, {level.load}"
        for name, metric in MEASURES:
            yield _measure(f"{where}: {name}", _value(before, metric), _value(level, metric), higher=metric is None)
        failed = [sum(run.failed for run in each.runs) for each in (before, level)]
        if failed[1] > failed[0]:
            yield Difference(f"{where}: failed requests", str(failed[0]), str(failed[1]), True, "requests were lost")


def _loads(record: Benchmark) -> str:
    return ", ".join(f"{level.traffic} at {level.load}" for level in record.levels)


def _value(level: Level, metric: str | None) -> Spread:
    return level.tokens_per_s if metric is None else level.latency(metric, "p50")


def _measure(what: str, old: Spread, new: Spread, *, higher: bool) -> Difference | Same:
    verdict = judged(old, new, MARGIN, higher_is_better=higher)
    change = f"{new.middle / old.middle - 1:+.1%}" if old.middle else "?"
    if verdict == "within":
        return Same(what, f"{_shown(old)} then, {_shown(new)} now ({change}): within the spread")
    slower = verdict == "worse"
    return Difference(
        what, _shown(old), _shown(new), slower, f"{change}, beyond the spread{'' if slower else ': better'}"
    )


def _shown(found: Spread) -> str:
    return f"{found.middle:.1f} ({found.least:.1f} to {found.most:.1f})"
