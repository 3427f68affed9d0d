"""A cause, how certain it is, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from clusterctl.signatures.signature import Signature

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
    """For machines: a finding's code, a failure mode's number (F37), `log` or `kernel` for a line that has none, an
    agent's reason, or a container's state (oom-killed)."""
    seen: tuple[str, ...]
    """Lines or values, as the node wrote them."""
    meaning: str
    fix: str
    why: str
    """Why it stands where it stands."""
    t: float | None = None
    """When it was first seen: Unix time in seconds on the node's own clock; None where that is not known."""
    signature: Signature | None = None
    """What the line in `seen` is known as, if the cause is such a line."""

    @property
    def name(self) -> str:
        """What the cause is called: the signature's name, otherwise its code."""
        return self.signature.name if self.signature else self.code

    @property
    def consequence(self) -> bool:
        """Whether this is what the other processes log once one has died or is cut off."""
        return self.signature is not None and self.signature.consequence

    def to_json(self) -> dict[str, Any]:
        """The cause for machines."""
        return {
            **{key: value for key, value in vars(self).items() if key != "signature"},
            "name": self.name,
            "certainty": str(self.certainty),
            "nodes": list(self.nodes),
            "seen": list(self.seen),
        }

    def lines(self) -> list[str]:
        """The cause for a person."""
        when = f" at {datetime.fromtimestamp(self.t, UTC):%Y-%m-%d %H:%M:%S} UTC" if self.t else ""
        where = ", ".join(self.nodes) or "the cluster"
        return [
            f"{self.certainty} [{self.name}] {where}{when}",
            *(f"  | {line}" for line in self.seen),
            f"  means: {self.meaning}",
            f"  fix: {self.fix}",
            f"  ranked here because {self.why}",
        ]


def nearest_cause(reasons: list[Cause], nodes: tuple[str, ...]) -> Cause | None:
    """A reason on the same node, else any."""
    return next((reason for reason in reasons if set(reason.nodes) & set(nodes)), next(iter(reasons), None))
