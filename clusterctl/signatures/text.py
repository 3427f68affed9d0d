"""Lines of logs, shortened for people."""

from __future__ import annotations

SHOWN_WIDTH = 300


def shortened(line: str) -> str:
    """A line on one line, cut in the middle: its beginning names the process, its end the reason."""
    line = " ".join(line.split())
    if len(line) <= SHOWN_WIDTH:
        return line
    return f"{line[: SHOWN_WIDTH // 3]} … {line[-SHOWN_WIDTH * 2 // 3 :]}"
