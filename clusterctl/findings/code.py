"""A finding code: what it means, and the texts of its findings, declared in the file of the rule that yields them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from clusterctl.findings.finding import Cure, Finding, Severity
from clusterctl.hosts.engine.commands import EngineCommands

ERROR, WARNING = Severity.ERROR, Severity.WARNING

Template = str | Callable[[EngineCommands], str]
"""A text with values in braces; made of the engine's commands where it holds one: `lambda engine: engine.restart`."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """One code, and one wording of its findings.

    `seen`, `why` and `fix` are templates: what stands in braces is a value that each finding gives. Pages show it in
    capitals, or not at all where its name begins with `_`: what only some findings add. An engine's command is never
    spelled: `Template` says how it is written. A code with several wordings is declared several times (`variant`); the
    name is what they share.
    """

    name: str
    """Stable: pipelines and waivers refer to it."""
    severity: Severity
    title: str
    """What it means, in a few words; the heading of its runbook entry is its name."""
    runbook: str
    """File in docs/runbooks whose section `name` shows how to confirm, fix and verify it."""
    seen: str
    """What was seen, with the node's own values."""
    why: Template
    """Why it matters."""
    fix: Template
    """What to do, as a command where there is one."""
    unless: str = ""
    """When its findings have the other severity. Empty: never."""
    note: str = ""
    """What the reference page says beyond that: limits, and where it is not checked."""
    waivable: bool = True
    """Whether the inventory's `waive` may name it. False where `up` cannot decide anything without what is missing."""
    cured_by: Cure | None = None
    """The step of a plan that removes the problem."""

    def variant(self, *, seen: str | None = None, why: Template | None = None, fix: Template | None = None) -> Code:
        """The same code in other words."""
        return replace(self, seen=seen or self.seen, why=why or self.why, fix=fix or self.fix)

    def texts(self, engine: EngineCommands | None) -> tuple[str, str, str]:
        """What `seen`, `why` and `fix` are on a node whose engine is spoken to like this.

        Raises ValueError where one of them holds a command and no engine is given.
        """
        return self.seen, self._spoken(self.why, engine), self._spoken(self.fix, engine)

    def _spoken(self, text: Template, engine: EngineCommands | None) -> str:
        if isinstance(text, str):
            return text
        if engine is None:
            raise ValueError(f"{self.name} names a command of the engine: say which engine")
        return text(engine)

    def found(
        self,
        *nodes: str,
        severity: Severity | None = None,
        engine: EngineCommands | None = None,
        **values: object,
    ) -> Finding:
        """A finding of these nodes; none where it is not about particular ones. `engine` has the commands of theirs.

        Raises KeyError where a value of a text is missing, and ValueError for a severity that is not declared, or
        where a text holds a command and `engine` is missing.
        """
        if severity not in (None, self.severity) and not self.unless:
            raise ValueError(f"{self.name} is always of severity {self.severity}")
        seen, why, fix = (text.format_map(values) for text in self.texts(engine))
        return Finding(self.name, severity or self.severity, nodes, seen, why, fix, cured_by=self.cured_by)


def literal(text: str) -> str:
    """A text without values, as a template: braces in it are only braces."""
    return text.replace("{", "{{").replace("}", "}}")


def alternatives(texts: Sequence[str]) -> str:
    """The different ones among them as one text."""
    return "; or: ".join(dict.fromkeys(texts))
