"""The record of `bench` as text, and as one HTML page with everything in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from clusterctl.records.benchmark import Benchmark, Level, Saturation, Traffic
from clusterctl.records.difference import Comparison
from clusterctl.records.spread import Spread
from clusterctl.rendering import render
from clusterctl.ui.comparison import compared
from clusterctl.ui.plot import Plot, Series, svg
from clusterctl.ui.tables import Grid, Section, as_text

COLUMNS = (
    *("load", "runs", "requests/s", "output tokens/s", "all tokens/s", "TTFT p50", "TTFT p99", "ITL p50", "ITL p99"),
    *("whole request p50", "failed"),
)
PERCENTILES = ("p50", "p90", "p99")


def as_lines(record: Benchmark) -> list[str]:
    """For a terminal."""
    lines = [f"{record.model} of {record.cluster} at {record.endpoint}/v1, {record.made_at}", f"  {record.shape}"]
    lines += [f"note: {note}" for note in _notes(record)]
    found = {each.traffic: each for each in record.saturation}
    for traffic in record.traffics:
        rows = tuple(_row(level) for level in record.levels_of(traffic))
        lines += as_text([Section(f"Requests of {traffic} tokens (times in ms)", Grid(COLUMNS, rows))])
        lines += [f"  {_saturated(found[traffic])}", f"  {found[traffic].rule}; {found[traffic].advice}"]
    return lines


def as_html(record: Benchmark, old: Benchmark | None, comparison: Comparison | None) -> str:
    """The page: it refers to nothing outside of itself. `old`: an earlier record, drawn as dashed lines."""
    return render(
        "bench.html.j2",
        record=record,
        notes=_notes(record),
        colours=len(PERCENTILES),
        traffics=traffics(record, old),
        compared=list(compared(comparison)) if comparison is not None else [],
    )


def traffics(record: Benchmark, old: Benchmark | None) -> list[dict[str, Any]]:
    """What a page shows of each kind of requests (templates/traffics.html.j2)."""
    found = {each.traffic: each for each in record.saturation}
    return [
        {
            "title": str(traffic),
            "saturation": f"{_saturated(found[traffic])}.",
            "advice": f"{found[traffic].rule}; {found[traffic].advice}.",
            "plots": [svg(plot) for plot in _plots(record, old, traffic)],
            "columns": COLUMNS,
            "rows": [_row(level) for level in record.levels_of(traffic)],
        }
        for traffic in record.traffics
    ]


def _notes(record: Benchmark) -> tuple[str, ...]:
    early = record.ended_early
    return (*record.notes, *((f"it ended early, and this is what was measured before: {early}",) if early else ()))


def _saturated(found: Saturation) -> str:
    return "No saturation seen" if found.load is None else f"Saturated from {found.load} on"


def _row(level: Level) -> tuple[str, ...]:
    return (
        str(level.load),
        str(len(level.runs)),
        _with_spread(level.requests_per_s, 2),
        _with_spread(level.output_tokens_per_s, 1),
        _with_spread(level.tokens_per_s, 1),
        *(f"{level.latency(metric, p).middle:.1f}" for metric in ("ttft", "itl") for p in ("p50", "p99")),
        f"{level.latency('e2el', 'p50').middle:.0f}",
        str(sum(run.failed for run in level.runs)),
    )


def _with_spread(found: Spread, digits: int) -> str:
    return f"{found.middle:.{digits}f} ±{found.relative / 2:.0%}"


def _plots(record: Benchmark, old: Benchmark | None, traffic: Traffic) -> Iterator[Plot]:
    """Throughput against latency; the percentiles of both latencies against the load."""
    records = [(record, "", False), *([(old, " then", True)] if old is not None else [])]
    unit = record.levels_of(traffic)[0].load.unit
    yield Plot(
        "Throughput against latency",
        "time of a whole request, median (ms)",
        "tokens/s, prompts and answers",
        tuple(
            Series(
                f"tokens/s{suffix}",
                tuple((each.latency("e2el", "p50").middle, each.tokens_per_s.middle) for each in of.levels_of(traffic)),
                dashed=dashed,
            )
            for of, suffix, dashed in records
        ),
    )
    for metric, title in (("ttft", "Time to the first token (TTFT)"), ("itl", "Between tokens (ITL)")):
        series = tuple(
            Series(f"{percentile}{suffix}", _by_load(of, traffic, metric, percentile), colour, dashed)
            for of, suffix, dashed in records
            for colour, percentile in enumerate(PERCENTILES)
        )
        yield Plot(title, unit, "ms", series, x_doubles=True)


def _by_load(record: Benchmark, traffic: Traffic, metric: str, percentile: str) -> tuple[tuple[float, float], ...]:
    levels = record.levels_of(traffic)
    return tuple((each.load.amount, each.latency(metric, percentile).middle) for each in levels)
