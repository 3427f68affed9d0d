"""Which findings a cluster leads to: fixtures/findings.yaml. What is checked is what an operator and a pipeline see."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusterctl.findings.codes import CODES

from clusterctl.facts.cluster import DeepFacts
from clusterctl.findings import rules
from clusterctl.findings.finding import ChecksFailedError, Finding, Severity
from tests.unit import networks
from tests.unit.machines import fact
from tests.unit.reports import deep_facts
from tests.unit.support import FIXTURES, cluster_facts, inventory

CASES: list[dict[str, Any]] = [
    case
    for file in sorted(FIXTURES.glob("findings*.yaml"))
    for case in yaml.safe_load(file.read_text(encoding="utf-8"))
]


FINDERS = ("Finding", "unknown", "differs")
"""What makes a finding of a code, its first argument."""


def found(case: dict[str, Any]) -> tuple[Finding, ...]:
    facts = cluster_facts(case.get("facts"), case.get("unreachable"))
    digests = {name: fact(said, dict) for name, said in case["digests"].items()} if "digests" in case else None
    deep = deep_facts(case["images"], gpus_wanted=case.get("gpus_wanted", 2)) if "images" in case else None
    asked = inventory(case.get("inventory"))
    if "pairs" in case or "collective" in case:
        deep = replace(
            deep or DeepFacts(images={}, gpus_wanted=0),
            pairs=networks.pairs(asked, case["pairs"]) if "pairs" in case else None,
            collective=networks.collective(case["collective"]) if "collective" in case else None,
        )
    findings = rules.check(asked, replace(facts, digests=digests, deep=deep))
    return tuple(finding for finding in findings if finding.code in case.get("only", CODES))


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_findings_of_a_cluster(case: dict[str, Any]) -> None:
    findings = found(case)
    assert [(f.code, list(f.nodes)) for f in findings] == [(e["code"], e["nodes"]) for e in case["expect"]]
    for finding, expected in zip(findings, case["expect"], strict=True):
        for value in expected["seen"]:
            assert str(value) in finding.seen, f"{finding.code} does not say {value!r}: {finding.seen!r}"


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_every_finding_says_why_and_what_next_in_text_and_in_json(case: dict[str, Any]) -> None:
    for finding in found(case):
        assert finding.why
        assert finding.fix
        text = "\n".join(finding.lines())
        assert all(part in text for part in (finding.code, finding.seen, finding.fix, *finding.nodes))
        assert json.loads(json.dumps(finding.to_json()))["code"] == finding.code


def test_every_code_has_a_case() -> None:
    sources = sorted(Path(rules.__file__).parent.glob("*.py"))
    codes = {
        call.args[0].value
        for source in sources
        for call in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in FINDERS
        and isinstance(call.args[0], ast.Constant)
    }  # fmt: skip
    assert codes == {expected["code"] for case in CASES for expected in case["expect"]}
    assert codes == CODES, "clusterctl/findings/codes.py lists every code"


def test_a_refusal_to_start_holds_every_finding_and_counts_the_errors() -> None:
    finding = Finding("image-absent", Severity.ERROR, ("gpu2",), "no image", "it is needed", "docker pull")
    warning = Finding("clock", Severity.WARNING, ("gpu1",), "2 s apart", "logs", "chrony")
    error = ChecksFailedError([finding, warning])
    assert "no image" in error.message
    assert "2 s apart" in error.message
    assert error.hint is not None
    assert error.hint.startswith("1 finding to mend")
