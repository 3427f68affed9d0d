"""A finding: one thing that is wrong, where, why it matters, and the fix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from clusterctl.errors import ClusterctlError


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """`up` would surely fail, so it does not start."""
    WARNING = "warning"
    """It may fail or perform badly; `up` goes on and says so."""


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

    def lines(self) -> list[str]:
        """The finding as text for a person."""
        where = f" {', '.join(self.nodes)}:" if self.nodes else ""
        what = f"waived {self.severity}" if self.waived else str(self.severity)
        return [f"{what} [{self.code}]{where} {self.seen}", f"  why: {self.why}", f"  fix: {self.fix}"]

    def to_json(self) -> dict[str, Any]:
        """The finding for machines."""
        return asdict(self)


def is_error(finding: Finding) -> bool:
    """Whether it says that starting would surely fail, and nobody waived it."""
    return finding.severity is Severity.ERROR and not finding.waived


def has_errors(findings: Iterable[Finding]) -> bool:
    """Whether one of them says that starting would surely fail."""
    return any(is_error(finding) for finding in findings)


class ChecksFailedError(ClusterctlError):
    """At least one finding says that starting would surely fail. Nothing was changed."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        errors = sum(is_error(finding) for finding in findings)
        lines = [line for finding in findings for line in finding.lines()]
        super().__init__(
            "\n".join(lines),
            hint=f"{errors} finding{'s' if errors != 1 else ''} to mend first; nothing was started or changed",
        )
