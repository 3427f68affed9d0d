"""A problem at a place in an inventory, before its file and line are known."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]
"""Where a value is in the file: ("nodes", 2, "address")."""

SHOWN_CHARACTERS = 60
COMPARED_CHARACTERS = 80


@dataclass(frozen=True)
class Issue:
    """One thing wrong at `path`. `line` is given only where it is not the line of the value at `path`."""

    path: KeyPath
    message: str
    hint: str | None = None
    line: int | None = None


def path_text(path: KeyPath) -> str:
    """The path as people write it: nodes[2].address."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", part) else quoted(part)
            text += f".{name}" if text else name
    return text


def quoted(text: str) -> str:
    """The text in quotes, on one line, without control characters, and not too long."""
    cut = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
    return "".join(
        character if character.isprintable() else json.dumps(character)[1:-1]
        for character in json.dumps(cut, ensure_ascii=False)
    )


def shown(value: object, path: KeyPath) -> str:
    """The value as a message shows it. Environment may hold secrets, and a key may stand where it must not: neither is
    shown."""
    if "env" in path[:-1] or path == ("serve", "api_key"):
        return "the value"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return json.dumps(value)


def nearest(word: str, valid: Iterable[str]) -> str | None:
    """The valid name that was probably meant."""
    by_lower = {name.lower(): name for name in valid}
    matches = difflib.get_close_matches(word[:COMPARED_CHARACTERS].lower(), by_lower, n=1)
    return by_lower[matches[0]] if matches else None


def listed(words: Iterable[str], last: str = "or") -> str:
    """`a, b or c`."""
    *head, tail = words
    return f"{', '.join(head)} {last} {tail}" if head else tail
