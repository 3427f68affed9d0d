"""No fix is one that is in force already: what a finding advises for the inventory is done, and must not be advised for
the same reason again. Every (reason, fix) pair of the fixtures, and those of the engine's door."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from clusterctl.findings.finding import Finding
from clusterctl.findings.rules import check, codes
from clusterctl.inventory.model import Inventory
from tests.unit.support import merged
from tests.unit.test_findings import CASES, cluster

SECTIONS = frozenset(Inventory.model_fields)
SETTING = re.compile(r"\b((?:[a-z_]+\.)+[a-z_-]+): ([A-Za-z0-9_-]+)(?![\w{\[])")


def settings_in(fix: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """`section.name: value` in a fix."""
    for path, value in SETTING.findall(fix):
        keys = tuple(path.split("."))
        if keys[0] in SECTIONS:
            yield keys, value


def nested(keys: tuple[str, ...], value: object) -> dict[str, Any]:
    return {keys[0]: nested(keys[1:], value) if len(keys) > 1 else value}


def read(value: str) -> object:
    try:
        return json.loads(value)
    except ValueError:
        return value


PAIRS = [
    pytest.param(case, finding, keys, value, id=f"{finding.code}: {'.'.join(keys)} {value} ({case['name'][:60]})")
    for case in CASES
    for asked, facts in [cluster(case)]
    for finding in check(asked, facts)
    for keys, value in settings_in(finding.fix)
]


def test_there_are_such_fixes() -> None:
    assert len(PAIRS) >= 15
    assert {pair.values[1].code for pair in PAIRS} <= codes().keys()  # type: ignore[union-attr]


@pytest.mark.parametrize(("case", "finding", "keys", "value"), PAIRS)
def test_what_is_advised_is_not_advised_again_once_it_is_done(
    case: dict[str, Any], finding: Finding, keys: tuple[str, ...], value: str
) -> None:
    asked, facts = cluster(case)
    done = asked.model_dump(mode="json", by_alias=True)
    current: Any = done
    for key in keys:
        current = current.get(key) if isinstance(current, dict) else None
    assert current != read(value), f"{finding.code} advises what is in force: {finding.fix}"
    changed = merged(case.get("inventory") or {}, nested(keys, read(value)))
    again = check(cluster({**case, "inventory": changed})[0], facts)
    repeated = [f.fix for f in again if f.code == finding.code and f.nodes == finding.nodes]
    assert [fix for fix in repeated if (keys, value) in set(settings_in(fix))] == []
