"""What a known line of a log means, and the reader of the tables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Explanation:
    """An explained line: the failure mode's number, the line itself, what it means, what to do."""

    failure_mode: str
    line: str
    meaning: str
    fix: str


def explained(table: Iterable[tuple[re.Pattern[str], str, str, str]], lines: Iterable[str]) -> tuple[Explanation, ...]:
    """Rows of a table of causes (pattern, failure mode, meaning, fix) that the lines match, in the table's order."""
    clean = [ANSI.sub("", line) for line in lines]
    found = []
    for pattern, number, meaning, fix in table:
        hit = next((line for line in clean if pattern.search(line)), None)
        if hit is not None:
            found.append(Explanation(number, hit.strip(), meaning, fix))
    return tuple(found)
