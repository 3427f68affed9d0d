"""Lines of logs, shortened for people."""

from __future__ import annotations

SHOWN_WIDTH = 300


def shortened(line: str) -> str:
    """A line cut in the middle: what a long line of vLLM says is at its end, who says it at its beginning."""
    if len(line) <= SHOWN_WIDTH:
        return line
    return f"{line[: SHOWN_WIDTH // 3]} … {line[-SHOWN_WIDTH * 2 // 3 :]}"
