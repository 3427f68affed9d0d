"""Repeated measurements: their middle, their range, and whether two of them are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Verdict = Literal["within", "better", "worse"]


@dataclass(frozen=True)
class Spread:
    """Several measurements of the same."""

    middle: float
    least: float
    most: float

    @property
    def relative(self) -> float:
        """The range as a fraction of the middle; 0 for one measurement, and where everything is 0."""
        return (self.most - self.least) / self.middle if self.middle else 0.0


def spread(values: Sequence[float]) -> Spread | None:
    """Of these measurements; None of none."""
    return Spread(median(values), min(values), max(values)) if values else None


def judged(old: Spread, new: Spread, margin: float, *, higher_is_better: bool) -> Verdict:
    """Whether the new measurements lie within what the old ones allow: the ranges, each widened by `margin` (a
    fraction), meet."""
    if new.least * (1 - margin) <= old.most * (1 + margin) and old.least * (1 - margin) <= new.most * (1 + margin):
        return "within"
    return "better" if (new.middle > old.middle) == higher_is_better else "worse"
