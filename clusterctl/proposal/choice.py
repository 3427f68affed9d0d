"""One field's proposed value, with the reasons. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clusterctl.inventory.rules.placeholders import PLACEHOLDER


@dataclass(frozen=True)
class Rejected:
    """What could have been chosen too."""

    value: Any
    why_not: str


@dataclass(frozen=True)
class Choice:
    """What is proposed for a field."""

    field: str
    """As in messages: `model.path`."""
    value: Any
    why: str
    rejected: tuple[Rejected, ...] = ()
    """The next best first."""
    warnings: tuple[str, ...] = ()
    """What will not work like this; `check` says how to mend it."""

    @property
    def missing(self) -> bool:
        """Whether nothing was found for it."""
        return bool(self.value == PLACEHOLDER)


def listed(names: object, most: int = 4) -> str:
    """`gpu1, gpu2, gpu3`; of many the first, and how many more."""
    all_names = [str(name) for name in names] if isinstance(names, list | tuple) else [str(names)]
    more = len(all_names) - most
    return ", ".join(all_names[:most]) + (f" and {more} more" if more > 0 else "")
