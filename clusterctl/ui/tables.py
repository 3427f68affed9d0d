"""Rows and tables as text: for a terminal, and for Markdown."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

NARROWEST = 80
"""Columns that a table takes at least: a narrower terminal wraps it."""
WIDEST = 1000
"""Columns in which any table has room: to learn how many it needs."""


@dataclass(frozen=True)
class Grid:
    """A table: its columns' names, its rows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """Something with a title: a table."""

    title: str
    grid: Grid


def as_text(sections: Iterable[Section]) -> list[str]:
    """For a terminal."""
    lines = []
    for section in sections:
        table = Table(box=None, pad_edge=False, header_style="")
        for column in section.grid.columns:
            table.add_column(column.upper(), overflow="fold")
        for row in section.grid.rows:
            table.add_row(*(_plain(cell) for cell in row))
        lines += ["", f"{section.title}:", *(f"  {line}" for line in text_of(table).splitlines())]
    return lines


def as_markdown(sections: Iterable[Section]) -> list[str]:
    """For a Markdown file."""
    lines = []
    for section in sections:
        head = [section.grid.columns, tuple("---" for _ in section.grid.columns)]
        lines += ["", f"## {section.title}", "", *(_markdown_row(row) for row in (*head, *section.grid.rows))]
    return lines


def text_of(table: Table) -> str:
    """A table as plain text of the terminal's width; wide where there is no terminal."""
    console = Console(
        file=io.StringIO(), width=max(terminal_columns(), NARROWEST), no_color=True, highlight=False, markup=False
    )
    console.print(table)
    out = console.file
    assert isinstance(out, io.StringIO)  # noqa: S101 (given above)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def needed_columns(table: Table) -> int:
    """Of a terminal on which no word of the table is broken."""
    return Console(width=WIDEST).measure(table).minimum


def terminal_columns() -> int:
    """Of the operator's terminal; many where there is none."""
    return shutil.get_terminal_size((200, 24)).columns


def _plain(cell: str) -> str:
    """What the model wrote may be anything: control characters would move the cursor."""
    return "".join(character if character.isprintable() else "\ufffd" for character in cell)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _escaped(cell: str) -> str:
    plain = _plain(cell)
    for character in "\\|`*_<>[]":
        plain = plain.replace(character, f"\\{character}")
    return plain
