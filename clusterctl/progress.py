"""How a run reports what it is doing; clusterctl/ui/progress.py shows it on a terminal."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Where a run reports what it is doing."""

    def phase(self, text: str) -> None:
        """A new phase has begun."""

    def detail(self, text: str) -> None:
        """Something happened in the phase."""


class Silent:
    """For callers that show nothing (and for tests of what is not progress)."""

    def phase(self, text: str) -> None:
        """Ignore."""

    def detail(self, text: str) -> None:
        """Ignore."""


SILENT = Silent()
