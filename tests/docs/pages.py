"""What the documentation's tests read out of Markdown: headings, links, code blocks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))

_FENCE = re.compile(r"^( *)```([\w-]*)[^\n]*\n(.*?)^\1```[ ]*$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#{1,6}) (.+?)\s*$", re.MULTILINE)
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and its text."""

    language: str
    text: str


def blocks(page: Path) -> tuple[Block, ...]:
    return tuple(Block(language, text) for _, language, text in _FENCE.findall(page.read_text(encoding="utf-8")))


def prose(page: Path) -> str:
    """The page without fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def headings(page: Path) -> tuple[str, ...]:
    """Headings as written, without the #."""
    return tuple(title for _, title in _HEADING.findall(prose(page)))


def anchors(page: Path) -> frozenset[str]:
    """The headings' anchors, as the site and GitHub make them."""
    return frozenset(slug(title) for title in headings(page))


def slug(title: str) -> str:
    """Python-Markdown's toc extension, slugify."""
    plain = unicodedata.normalize("NFKD", title.replace("`", "")).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def links(page: Path) -> tuple[str, ...]:
    """Targets of inline links."""
    return tuple(_LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page))))


def sections(page: Path, level: int) -> Mapping[str, str]:
    """Heading of that level → text up to the next heading of that level or above."""
    text = page.read_text(encoding="utf-8")
    visible = _FENCE.sub(lambda fence: " " * len(fence[0]), text)  # a comment in a shell block is no heading
    marks = [(len(m[1]), m[2], m.start(), m.end()) for m in _HEADING.finditer(visible)]
    found: dict[str, str] = {}
    for index, (depth, title, _, end) in enumerate(marks):
        if depth == level:
            after = [start for later, _, start, _ in marks[index + 1 :] if later <= level]
            found[title.strip("`")] = text[end : after[0] if after else len(text)]
    return found


def rows(text: str) -> Iterator[tuple[str, ...]]:
    """Rows of the tables in a text, without header and ruler."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    for index, line in enumerate(lines):
        is_ruler = set(line) <= set("|-: ")
        is_header = index + 1 < len(lines) and set(lines[index + 1]) <= set("|-: ")
        if not is_ruler and not is_header:
            yield tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
