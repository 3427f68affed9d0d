"""What differs between two records, and whether it matters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was."""

    what: str
    old: str
    new: str
    matters: bool
    why: str
    """Why it matters, or why not."""


@dataclass(frozen=True)
class Same:
    """One thing that was compared and is within its limit."""

    what: str
    how: str


@dataclass(frozen=True)
class Comparison:
    """Two records side by side."""

    old: str
    """Where the older one is, and when it was made."""
    differences: tuple[Difference, ...]
    same: tuple[Same, ...]

    @property
    def within(self) -> bool:
        """Whether nothing that differs matters."""
        return not any(each.matters for each in self.differences)


def told(what: str, old: object, new: object, why: str) -> Iterator[Difference]:
    """A difference that explains others and does not matter by itself; nothing where both are equal."""
    if old != new:
        yield Difference(what, _shown(old), _shown(new), False, why)


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def comparison_json(found: Comparison | None) -> dict[str, Any] | None:
    """For machines."""
    return None if found is None else {**asdict(found), "within": found.within}
