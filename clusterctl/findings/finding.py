"""A finding: one thing that is wrong, where, why it matters, and the fix."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal

from clusterctl.errors import ClusterctlError


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """`up` would surely fail, so it does not start."""
    WARNING = "warning"
    """It may fail or perform badly; `up` goes on and says so."""


Cure = Literal["transfer"]
"""A step of a plan that can remove a problem: `transfer` brings what is missing from another node."""


@dataclass(frozen=True)
class Finding:
    """One finding. `code` is stable: pipelines, waivers and docs/reference/findings.md refer to it."""

    code: str
    severity: Severity
    nodes: tuple[str, ...]
    seen: str
    """What was seen, with the node's own values."""
    why: str
    """Why it matters."""
    fix: str
    """What to do, as a command where there is one."""
    waived: bool = False
    """Whether the inventory's `waive` names its code: it is shown and stops nothing."""
    cured_by: Cure | None = None
    """The step of a plan that removes the problem: where the plan at hand has it, it stops nothing."""

    def lines(self) -> list[str]:
        """The finding as text for a person."""
        where = f" {', '.join(self.nodes)}:" if self.nodes else ""
        what = f"waived {self.severity}" if self.waived else str(self.severity)
        return [f"{what} [{self.code}]{where} {self.seen}", f"  why: {self.why}", f"  fix: {self.fix}"]

    def to_json(self) -> dict[str, Any]:
        """The finding for machines; `cured_by` only where there is a cure."""
        fields = asdict(self)
        if self.cured_by is None:
            del fields["cured_by"]
        return fields


def is_error(finding: Finding, cures: Collection[Cure] = ()) -> bool:
    """Whether it means that starting would surely fail, is not waived, and is not cured by these steps of a plan."""
    return finding.severity is Severity.ERROR and not finding.waived and finding.cured_by not in cures


def has_errors(findings: Iterable[Finding], cures: Collection[Cure] = ()) -> bool:
    """Whether one of them means that starting would surely fail, although a plan has these steps."""
    return any(is_error(finding, cures) for finding in findings)


class ChecksFailedError(ClusterctlError):
    """At least one finding means that starting would surely fail. Nothing was changed."""

    def __init__(self, findings: Sequence[Finding], cures: Collection[Cure] = ()) -> None:
        self.findings = tuple(findings)
        errors = sum(is_error(finding, cures) for finding in findings)
        lines = [line for finding in findings for line in finding.lines()]
        super().__init__(
            "\n".join(lines),
            hint=f"{errors} finding{'s' if errors != 1 else ''} to fix first; nothing was started or changed",
        )
