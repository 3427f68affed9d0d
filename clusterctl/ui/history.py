"""`history` as text: a line for each run and each restart, oldest first."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.lock.history import History, Restart, Run, duration, utc
from clusterctl.ui.render import took


def text(found: History) -> str:
    """The history as people read it."""
    lines = [line for entry in found.entries for line in (_run(entry) if isinstance(entry, Run) else _restart(entry))]
    if not lines:
        lines = [f"these nodes have no record of a run of clusterctl that changed cluster {found.cluster}"]
    lines += [f"{node}: {count} line(s) of its history are damaged" for node, count in found.bad_lines.items()]
    lines += [f"{node}: its agent's restarts could not be read: {why}" for node, why in found.no_restarts.items()]
    lines += [f"{node}: its history could not be read: {why}" for node, why in found.unread.items()]
    return "\n".join(lines)


def _run(entry: Run) -> Iterator[str]:
    at = utc(entry.t) if entry.t is not None else "(earlier)"
    lasted = f" after {duration(entry.seconds)}" if entry.seconds is not None else ""
    yield f"{at}  {entry.who}  {entry.command}  {entry.outcome or 'not ended'}{lasted}"
    for note in entry.notes:
        yield f"    {note.text}"
    if entry.timings_s:
        yield f"    started: {took(entry.timings_s)}"
    if entry.ended or len(set(entry.cut_off.values())) > 1:
        yield from (f"    cut off on {node}: {why}" for node, why in entry.cut_off.items())


def _restart(entry: Restart) -> Iterator[str]:
    detail = f": {entry.detail}" if entry.detail else ""
    yield f"{utc(entry.t)}  {entry.node}  restarted the {entry.scope or '?'}  {entry.reason or '?'}{detail}"
