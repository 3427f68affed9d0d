"""Two records compared, as tables and as one sentence."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.records.difference import Comparison
from clusterctl.ui.tables import Grid, Section, as_text


def comparison_lines(comparison: Comparison) -> list[str]:
    """For a terminal: what differs, what does not, and the verdict."""
    return [*as_text(compared(comparison)), "", verdict(comparison)]


def verdict(comparison: Comparison) -> str:
    """In one sentence."""
    if comparison.within:
        return f"within tolerance of {comparison.old}"
    matter = [each.what for each in comparison.differences if each.matters]
    return f"NOT within tolerance of {comparison.old}: {'; '.join(matter)}"


def compared(comparison: Comparison) -> Iterator[Section]:
    """What differs, with whether it matters, and what is the same."""
    if comparison.differences:
        rows = sorted(comparison.differences, key=lambda each: not each.matters)
        yield Section(
            f"Differs from {comparison.old}",
            Grid(
                ("what", "then", "now", "matters", "why"),
                tuple((each.what, each.old, each.new, "YES" if each.matters else "no", each.why) for each in rows),
            ),
        )
    if comparison.same:
        same = tuple((each.what, each.how) for each in comparison.same)
        yield Section(f"Within tolerance of {comparison.old}", Grid(("what", "how"), same))
