"""The causes that a log shows, as text for a person and as values for machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clusterctl.diagnosis.cause import Cause
from clusterctl.findings.rules import codes
from clusterctl.signatures.vllm import UNKNOWN_ERROR


def to_json(causes: Sequence[Cause]) -> dict[str, Any]:
    """For machines, best first; code, fix and runbook are null where nothing is known."""
    return {
        "causes": [
            {
                "rank": rank,
                "code": cause.name if is_known(cause) else None,
                "line": cause.seen[0] if cause.seen else "",
                "meaning": cause.meaning,
                "fix": cause.fix if is_known(cause) else None,
                "runbook": runbook(cause),
            }
            for rank, cause in enumerate(causes, 1)
        ]
    }


def text(causes: Sequence[Cause]) -> str:
    """For a person."""
    if not causes:
        return "No known line and no error was found."
    blocks = []
    for rank, cause in enumerate(causes, 1):
        page = runbook(cause)
        lines = [f"{rank}. {cause.certainty} [{cause.name}]", *(f"   | {line}" for line in cause.seen)]
        lines += [f"   means: {cause.meaning}", f"   fix: {cause.fix}", *([f"   see: {page}"] if page else [])]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def is_known(cause: Cause) -> bool:
    """Whether a table knows it."""
    return cause.signature is not UNKNOWN_ERROR


def runbook(cause: Cause) -> str | None:
    """Page of the documentation: the finding's of the same cause, else the list of explained lines."""
    if not is_known(cause):
        return None
    found = codes().get(cause.name)
    return f"docs/runbooks/{found[0].runbook}#{cause.name}" if found else "docs/runbooks/start-causes.md"
