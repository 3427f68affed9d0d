"""What a finding code means, as text."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from clusterctl.errors import UsageError
from clusterctl.findings.code import Code, alternatives
from clusterctl.findings.rules import codes
from clusterctl.hosts.engine.commands import DOCKER

_VALUE = re.compile(r"\{(\w+)\}")


def explain(name: str) -> str:
    """A code's entry as text. Raises UsageError for a code that does not exist, with the nearest that does."""
    wordings = codes().get(name)
    if wordings is None:
        near = difflib.get_close_matches(name, codes(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"codes: {', '.join(sorted(codes()))}"
        raise UsageError(f"there is no finding code {name!r}", hint=hint)
    code = wordings[0]
    rows = {
        **texts(wordings),
        "Note": code.note.replace("`", ""),
        "Severity": severity_text(code).replace("`", ""),
        "Runbook": f"docs/runbooks/{code.runbook}#{code.name}",
    }
    return "\n".join([f"{code.name}: {code.title}", "", *(f"{title}: {text}" for title, text in rows.items() if text)])


def texts(wordings: Sequence[Code]) -> Mapping[str, str]:
    """The texts of a code's findings in all their wordings, by title; commands are Docker's, as no node is known."""
    templates = zip(*(wording.texts(DOCKER) for wording in wordings), strict=True)
    shown_texts = (alternatives([shown(template) for template in each]) for each in templates)
    return dict(zip(("Seen", "Why", "Fix"), shown_texts, strict=True))


def shown(template: str) -> str:
    """A text with capitals in the place of values, without what only some findings add."""
    return _VALUE.sub(lambda value: "" if value[1].startswith("_") else value[1].replace("_", " ").upper(), template)


def severity_text(code: Code) -> str:
    """How bad it is, whether it can be waived, and what cures it."""
    waived = "" if code.waivable else "; cannot be waived"
    cured = f"; a plan with the step {code.cured_by} cures it" if code.cured_by else ""
    either = f"{code.severity}; {code.unless}" if code.unless else str(code.severity)
    return f"{either}{waived}{cured}"
