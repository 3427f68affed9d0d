"""Plots as SVG: lines over axes, without anything from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log2, log10

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 66
TICKS = 5
LEAST = 1e-9
"""A greatest value below this is drawn as 0."""
LEGEND_LEFT, LEGEND_MARK, LETTER = 24.0, 26, 5.8
"""Where the legend begins, and what an entry takes: its line, and each letter of its name."""


@dataclass(frozen=True)
class Series:
    """A line: its name and its points."""

    name: str
    points: tuple[tuple[float, float], ...]
    colour: int = 0
    """A class c0, c1 … that the page gives a colour to."""
    dashed: bool = False
    """Of an earlier record."""


@dataclass(frozen=True)
class Plot:
    """Some lines in one frame."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_doubles: bool = False
    """Whether x is drawn by its logarithm: loads that double are equally far apart."""


def svg(plot: Plot) -> str:
    """The plot as an SVG element."""
    drawn = [series for series in plot.series if series.points]
    points = [point for series in drawn for point in series.points]
    if not points:
        return f'<p class="empty">{escape(plot.title)}: nothing was measured</p>'
    xs, ys = [x for x, _ in points], [y for _, y in points]
    across = _doubling(xs) if plot.x_doubles else _linear(max(xs), LEFT, WIDTH - RIGHT)
    up = _linear(max(ys), HEIGHT - BOTTOM, TOP)
    x_ticks = sorted(set(xs)) if plot.x_doubles else ticks(max(xs))
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(plot.title)}">',
        f'<text class="title" x="{LEFT}" y="18">{escape(plot.title)}</text>',
        *_grid(x_ticks, across, ticks(max(ys)), up),
        f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 34}">{escape(plot.x_label)}</text>',
        f'<text class="label" transform="rotate(-90)" x="{-(TOP + HEIGHT - BOTTOM) / 2:.0f}" y="14">'
        f"{escape(plot.y_label)}</text>",
        *_lines(drawn, across, up),
        *_legend(drawn),
        "</svg>",
    ]
    return "\n".join(parts)


def ticks(most: float) -> list[float]:
    """Round numbers from 0 to at least `most`: steps of 1, 2 or 5 times a power of ten."""
    if most < LEAST:
        return [0.0, 1.0]
    raw = most / TICKS
    power = 10.0 ** floor(log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    count = -int(-most / step * (1 - 1e-9) // 1)
    return [step * number for number in range(count + 1)]


def _linear(most: float, start: float, end: float) -> Callable[[float], float]:
    top = ticks(most)[-1]
    return lambda value: start + (end - start) * value / top


def _doubling(xs: Sequence[float]) -> Callable[[float], float]:
    least, most = log2(min(xs)), log2(max(xs))
    room = WIDTH - RIGHT - LEFT - 40
    return lambda value: LEFT + 20 + room * ((log2(value) - least) / (most - least) if most > least else 0.5)


def _grid(
    x_ticks: Sequence[float], across: Callable[[float], float], y_ticks: Sequence[float], up: Callable[[float], float]
) -> Iterator[str]:
    bottom = HEIGHT - BOTTOM
    for tick in x_ticks:
        x = across(tick)
        yield f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}"/>'
        yield f'<text class="tick" x="{x:.1f}" y="{bottom + 14}">{_number(tick)}</text>'
    for tick in y_ticks:
        y = up(tick)
        yield f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>'
        yield f'<text class="tick left" x="{LEFT - 6}" y="{y + 4:.1f}">{_number(tick)}</text>'


def _lines(drawn: Sequence[Series], across: Callable[[float], float], up: Callable[[float], float]) -> Iterator[str]:
    """What is new lies on top of what is old, and marks on top of lines."""
    series = sorted(drawn, key=lambda each: not each.dashed)
    for each in series:
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in each.points)
        yield f'<polyline class="line {_classes(each)}" points="{path}"/>'
    for each in series:
        for x, y in each.points:
            yield (
                f'<circle class="mark {_classes(each)}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="3.5">'
                f"<title>{escape(each.name)}: {_number(x)}, {_number(y)}</title></circle>"
            )


def _legend(series: Sequence[Series]) -> Iterator[str]:
    x, y = LEGEND_LEFT, HEIGHT - 10
    for each in series:
        yield f'<line class="line {_classes(each)}" x1="{x:.0f}" y1="{y - 4}" x2="{x + 18:.0f}" y2="{y - 4}"/>'
        yield f'<text class="legend" x="{x + 22:.0f}" y="{y}">{escape(each.name)}</text>'
        x += LEGEND_MARK + LETTER * len(each.name) + 6


def _classes(series: Series) -> str:
    return f"c{series.colour}" + (" old" if series.dashed else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
