"""Progress on stderr: what is being waited for, and for how long. A spinner on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.status import Status


class PlainProgress:
    """One line an event, with seconds since the start: for logs, pipes and runbooks."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started = time.monotonic()
        self._last = ""
        self._phase = ""

    def phase(self, text: str) -> None:
        """A new phase has begun."""
        self._phase = text
        self._line(text)

    def detail(self, text: str) -> None:
        """Something happened in the phase; the same text twice is printed once."""
        if text != self._last:
            self._last = text
            self._line(f"  {text}")

    def _line(self, text: str) -> None:
        print(f"[{time.monotonic() - self._started:7.1f}s] {text}", file=self._stream, flush=True)


class LiveProgress:
    """A spinner with the phase, its detail and the elapsed time; finished phases stay as lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = self._phase_started = time.monotonic()
        self._phase = self._detail = ""
        self._status = Status("", console=console)

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish_phase(failed=kind is not None)
        self._status.stop()

    def phase(self, text: str) -> None:
        """A new phase has begun; the one before it is done."""
        self._finish_phase(failed=False)
        self._phase, self._detail, self._phase_started = text, "", time.monotonic()
        self._status.update(text)

    def detail(self, text: str) -> None:
        """Something happened in the phase."""
        self._detail = text
        self._status.update(f"{self._phase} · {text}")

    def _finish_phase(self, *, failed: bool) -> None:
        if self._phase:
            mark = "[red]✗[/red]" if failed else "[green]✓[/green]"
            took = time.monotonic() - self._phase_started
            detail = f" · {self._detail}" if self._detail else ""
            self._console.print(f"{mark} {self._phase}{detail} [dim]({took:.1f} s)[/dim]", highlight=False)


def progress_on_stderr() -> LiveProgress | PlainContext:
    """The progress that fits stderr, as a context manager."""
    console = Console(stderr=True)
    return LiveProgress(console) if console.is_terminal else PlainContext(sys.stderr)


class PlainContext(PlainProgress):
    """PlainProgress as a context manager, so that both kinds are used alike."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None
