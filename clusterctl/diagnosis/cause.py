"""A cause, how certain it is, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

SHOWN_WIDTH = 300


SHOWN_LINES = 3


class Certainty(StrEnum):
    """How sure it is that this is the cause; in the order in which causes are shown."""

    CERTAIN = "certain"
    LIKELY = "likely"
    POSSIBLE = "possible"
    CONSEQUENCE = "consequence"
    PAST = "past"


CERTAINTY_ORDER = {certainty: index for index, certainty in enumerate(Certainty)}


@dataclass(frozen=True)
class Cause:
    """One thing that explains, or is explained by, what is wrong."""

    certainty: Certainty
    nodes: tuple[str, ...]
    code: str
    """A finding's code, a failure mode's number (F37), an agent's reason, or a container's state (oom-killed)."""
    seen: tuple[str, ...]
    """Lines or values, as the node wrote them."""
    meaning: str
    fix: str
    why: str
    """Why it stands where it stands."""
    t: float | None = None
    """When it was first seen: Unix time in seconds on the node's own clock; None where that is not known."""

    def to_json(self) -> dict[str, Any]:
        """The cause for machines."""
        return {**vars(self), "certainty": str(self.certainty), "nodes": list(self.nodes), "seen": list(self.seen)}

    def lines(self) -> list[str]:
        """The cause for a person."""
        when = f" at {datetime.fromtimestamp(self.t, UTC):%Y-%m-%d %H:%M:%S} UTC" if self.t else ""
        where = ", ".join(self.nodes) or "the cluster"
        return [
            f"{self.certainty} [{self.code}] {where}{when}",
            *(f"  | {line}" for line in self.seen),
            f"  means: {self.meaning}",
            f"  fix: {self.fix}",
            f"  ranked so because {self.why}",
        ]


def nearest_cause(reasons: list[Cause], nodes: tuple[str, ...]) -> Cause | None:
    """A reason on the same node, else any."""
    return next((reason for reason in reasons if set(reason.nodes) & set(nodes)), next(iter(reasons), None))


def short(line: str) -> str:
    """A line cut in the middle: who says it stands at its beginning, what it says at its end."""
    line = " ".join(line.split())
    if len(line) <= SHOWN_WIDTH:
        return line
    return f"{line[: SHOWN_WIDTH // 3]} … {line[-SHOWN_WIDTH * 2 // 3 :]}"
