"""A known line of a log: what it looks like, what it means, and the one reader of the tables of such lines."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Signature:
    """A line that is known, by a pattern of its fixed words."""

    pattern: str
    """A regular expression, searched for in a line without its colours."""
    name: str = field(kw_only=True)
    """What the cause is called, in a word or three; as the finding of `check` is, where there is one of the same cause.
    Two tables may know the same cause by different lines."""
    failure_mode: str | None = field(default=None, kw_only=True)
    """Its number in docs/reference/failure-modes.md, which scripts rely on."""
    meaning: str = field(kw_only=True)
    fix: str = field(kw_only=True)
    harmless: bool = field(default=False, kw_only=True)
    """Whether a healthy start may print such a line too."""
    consequence: bool = field(default=False, kw_only=True)
    """Whether this is what the other processes log once one has died or is cut off: not the reason itself."""

    @cached_property
    def expression(self) -> re.Pattern[str]:
        """The pattern, compiled."""
        return re.compile(self.pattern)


@dataclass(frozen=True)
class Explanation:
    """A line that was seen, and the signature that it has."""

    signature: Signature
    line: str

    @property
    def name(self) -> str:
        """What the cause is called."""
        return self.signature.name

    @property
    def failure_mode(self) -> str | None:
        """Its number in docs/reference/failure-modes.md, where it has one."""
        return self.signature.failure_mode

    @property
    def meaning(self) -> str:
        """What the line means."""
        return self.signature.meaning

    @property
    def fix(self) -> str:
        """What to do about it."""
        return self.signature.fix


def explained(signatures: Iterable[Signature], lines: Iterable[str]) -> tuple[Explanation, ...]:
    """The signatures that the lines have, in the table's order, each with its first line."""
    clean = [ANSI.sub("", line) for line in lines]
    found = []
    for signature in signatures:
        hit = next((line for line in clean if signature.expression.search(line)), None)
        if hit is not None:
            found.append(Explanation(signature, hit.strip()))
    return tuple(found)
