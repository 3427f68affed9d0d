"""What `init` proposes and why, as text for a person and as values for machines."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from clusterctl.actions.init import Written
from clusterctl.proposal.choice import Choice, listed
from clusterctl.proposal.draft import Draft

WIDTH = 22
"""Of the fields' column."""
SHOWN_REJECTED = 4


def proposal_lines(draft: Draft) -> list[str]:
    """The proposal: every field, why, and what else was there."""
    lines = [f"{'nodes':{WIDTH}}{', '.join(f'{node.name} ({node.host})' for node in draft.nodes)}"]
    lines += [f"{'':{WIDTH}}not {each.node.name} ({each.node.host}): it did not answer" for each in draft.lost]
    for choice in draft.choices:
        lines += _choice(choice)
    for each in draft.lost:
        lines.append(f"warning: {each.node.name} is left out, since it did not answer: {each.trouble}")
        lines += [f"  fix: {each.fix}"] if each.fix else []
    return [*lines, *(f"warning: {warning}" for warning in draft.warnings)]


def _choice(choice: Choice) -> Iterator[str]:
    yield f"{choice.field:{WIDTH}}{_value(choice)}"
    yield f"{'':{WIDTH}}{choice.why}"
    for each in choice.rejected[:SHOWN_REJECTED]:
        yield f"{'':{WIDTH}}not {each.value}: {each.why_not}"
    if (more := len(choice.rejected) - SHOWN_REJECTED) > 0:
        yield f"{'':{WIDTH}}and {more} more"


def _value(choice: Choice) -> str:
    if choice.missing:
        return "(nothing found)"
    if isinstance(choice.value, dict):
        return ", ".join(f"{key}: {value}" for key, value in choice.value.items()) or "auto"
    return json.dumps(choice.value) if isinstance(choice.value, bool) else str(choice.value)


def written_lines(written: Written) -> list[str]:
    """What was written, and what to do next."""
    command = shlex.join(["clusterctl", "-i", str(written.path), "check"])
    lines = ["", f"wrote {written.path}"]
    if lost := [each.node.name for each in written.draft.lost]:
        counts = f"{len(written.draft.nodes)} of {len(written.draft.nodes) + len(lost)} nodes"
        lines.append(f"  for {counts}: {listed(lost)} stands in it as a comment; once it answers, run init again")
    if written.to_fill_in:
        lines += ["to fill in:", *(f"  {problem}" for problem in written.to_fill_in)]
        return [*lines, f"then: {command}"]
    return [*lines, f"next: {command}"]


def to_json(written: Written) -> dict[str, Any]:
    """For machines."""
    draft = written.draft
    return {
        "path": str(written.path),
        "cluster": draft.cluster,
        "nodes": [asdict(node) for node in draft.nodes],
        "lost": [{**asdict(each.node), "trouble": each.trouble, "fix": each.fix} for each in draft.lost],
        "choices": [{**asdict(choice), "missing": choice.missing} for choice in draft.choices],
        "warnings": list(draft.warnings),
        "to_fill_in": [asdict(problem) for problem in written.to_fill_in],
    }
