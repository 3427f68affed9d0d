"""The page of `report`: one HTML file with everything in it, and without secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from clusterctl import __version__
from clusterctl.actions.report import Collected
from clusterctl.agent.reasons import MEANINGS
from clusterctl.facts.fact import Unknown
from clusterctl.lock.history import Restart, Run, duration, utc
from clusterctl.rendering import render
from clusterctl.secrets.redact import Redactor, masked
from clusterctl.ui import benchmark, verification
from clusterctl.ui import layout as layout_text
from clusterctl.ui import render as text
from clusterctl.ui.tables import Section

COLOURS = 3
"""That the page's style has."""


def as_html(found: Collected) -> str:
    """The page: it refers to nothing outside of itself."""
    status, records = found.status, found.records
    page = {
        "title": f"{status.model} on {status.cluster}",
        "made_at": f"{found.made_at:%Y-%m-%dT%H:%M:%SZ}",
        "clusterctl": __version__,
        "well": status.state == "healthy",
        "headline": [f"The cluster is {status.state}."],
        "notes": [*_unread(found), *records.notes],
        "sections": list(_sections(found)),
        "benched_at": records.benchmark.made_at if records.benchmark is not None else "",
    }
    measured = benchmark.traffics(records.benchmark, None) if records.benchmark is not None else []
    return render("report.html.j2", page=cleared(found.redactor, page), traffics=measured, colours=COLOURS)


def cleared(redactor: Redactor, value: Any) -> Any:
    """A tree without secrets: each text is cleared by itself, before it becomes HTML, which would hide their form."""
    if isinstance(value, str):
        return redactor.text(value)
    if isinstance(value, Mapping):
        return {key: cleared(redactor, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [cleared(redactor, item) for item in value]
    return value


def _unread(found: Collected) -> Iterator[str]:
    for node in found.status.nodes:
        if not node.reachable:
            yield f"{node.name} could not be reached: {node.reason}"
    for name, why in found.history.no_restarts.items():
        yield f"{name}: its agent's restarts could not be read: {why}"


def _sections(found: Collected) -> Iterator[dict[str, Any]]:
    yield _section("Status", text=text.status(found.status))
    yield _findings(found)
    layout = found.layout
    said = f"No layout can be computed: {layout.reason}" if isinstance(layout, Unknown) else layout_text.text(layout)
    yield _section("Layout", text=said)
    yield _starts(found.starts)
    runs = [each for each in found.history.entries if isinstance(each, Run)]
    rows = [_run(each) for each in reversed(runs)]
    columns = ("when", "who", "command", "outcome", "took", "what it changed")
    yield _section("Runs of clusterctl, the latest first", columns, rows, lines=_none(rows, "No run is recorded."))
    restarts = [each for each in found.history.entries if isinstance(each, Restart)]
    rows = [_restart(each) for each in reversed(restarts)]
    columns = ("when", "node", "what", "reason", "which means", "detail")
    yield _section("Restarts by the agents", columns, rows, lines=_none(rows, "Nothing was restarted."))
    if found.records.verification is not None:
        record = found.records.verification
        yield _section("Verified", lines=verification.headline(record))
        yield from (_table(each) for each in verification.sections(record, shown_text=None))
    yield _section("Inventory", text=_inventory(found))


def _section(
    title: str,
    columns: Sequence[str] = (),
    rows: Sequence[Sequence[str]] = (),
    *,
    lines: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    empty = {"text": "", "bars": [], "phases": []}
    return {"title": title, "columns": columns, "rows": rows, "lines": lines, **empty, **more}


def _table(section: Section) -> dict[str, Any]:
    return _section(section.title, section.grid.columns, section.grid.rows)


def _none(rows: Sequence[object], words: str) -> list[str]:
    return [] if rows else [words]


def _findings(found: Collected) -> dict[str, Any]:
    rows = [
        (
            f"{each.severity.value}{' (waived)' if each.waived else ''}",
            each.code,
            ", ".join(each.nodes) or "-",
            each.seen,
            each.fix,
        )
        for each in found.findings
    ]
    nothing = _none(rows, "Nothing was found. `clusterctl check` looks further: it runs the image on every node.")
    return _section("Findings", ("severity", "code", "nodes", "what", "fix"), rows, lines=nothing)


def _starts(starts: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """A bar for each node: the phases of its last start, all to one scale."""
    phases = list(dict.fromkeys(phase for each in starts.values() for phase in each))
    longest = max((sum(each.values()) for each in starts.values()), default=0.0)
    bars = [
        {
            "name": node,
            "said": ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in each.items()),
            "parts": [
                {
                    "name": f"{phase}: {seconds:.1f} s",
                    "colour": phases.index(phase) % COLOURS,
                    "percent": f"{100 * seconds / longest if longest else 0:.2f}",
                }
                for phase, seconds in each.items()
            ],
        }
        for node, each in starts.items()
    ]
    nothing = _none(bars, "No agent that runs has measured a start.")
    return _section("The last start, phase by phase", bars=bars, phases=phases, lines=nothing)


def _run(entry: Run) -> tuple[str, ...]:
    return (
        utc(entry.t) if entry.t is not None else "(earlier)",
        entry.who,
        entry.command,
        entry.outcome or "not ended",
        duration(entry.seconds) if entry.seconds is not None else "-",
        "; ".join(note.text for note in entry.notes) or "-",
    )


def _restart(entry: Restart) -> tuple[str, ...]:
    meaning = MEANINGS.get(entry.reason, "-")
    return utc(entry.t), entry.node, entry.scope or "?", entry.reason or "?", meaning, entry.detail or "-"


def _inventory(found: Collected) -> str:
    said = masked(found.inventory.model_dump(mode="json", exclude_unset=True))
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=100)
