"""A fact is a value, None (absent) or Unknown (it could not be read)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Unknown:
    """A probe failed: nothing can be said, least of all "none"."""

    reason: str


Fact: TypeAlias = T | Unknown | None
