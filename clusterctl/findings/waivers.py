"""The inventory's rule for findings that the operator waives: it needs to know every code, so it stands here."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.findings.rules import codes, never_waived
from clusterctl.inventory.issue import Issue, nearest, quoted
from clusterctl.inventory.raw import dig, items, text


def waivers(data: object) -> Iterator[Issue]:
    """A misspelt code would waive nothing, and nobody would notice before the day it is needed."""
    first: dict[str, int] = {}
    for index, value in enumerate(items(dig(data, "waive"))):
        code = text(value)
        if code is None:
            continue
        place = ("waive", index)
        if code in first:
            yield Issue(place, f"{quoted(code)} is already waive[{first[code]}]", "remove one of them")
        elif code in never_waived():
            hint = "nothing can be planned without the value that is missing"
            yield Issue(place, f"{quoted(code)} cannot be waived", hint)
        elif code not in codes():
            near = nearest(code, codes().keys() - never_waived())
            hint = f"did you mean {near}?" if near else "the codes are in docs/reference/findings.md"
            yield Issue(place, f"no finding has the code {quoted(code)}", hint)
        first.setdefault(code, index)
