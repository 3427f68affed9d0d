"""Which findings a cluster leads to: fixtures/findings.yaml. What is checked is what an operator and a pipeline see."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusterctl.actions.prepare import passed
from clusterctl.facts.cluster import ClusterFacts, DeepFacts
from clusterctl.findings import rules as rules_folder
from clusterctl.findings.code import Code
from clusterctl.findings.finding import ChecksFailedError, Finding, Severity, has_errors, is_error
from clusterctl.findings.rules import check, codes, rules
from clusterctl.findings.section import Section
from clusterctl.hosts.engine.commands import DOCKER, EngineCommands
from clusterctl.inventory.model import Inventory
from tests.unit import networks
from tests.unit.machines import fact
from tests.unit.reports import deep_facts
from tests.unit.support import FIXTURES, cluster_facts, inventory

CASES: list[dict[str, Any]] = [
    case
    for file in sorted(FIXTURES.glob("findings*.yaml"))
    for case in yaml.safe_load(file.read_text(encoding="utf-8"))
]


def found(case: dict[str, Any]) -> tuple[Finding, ...]:
    asked, facts = cluster(case)
    return tuple(finding for finding in check(asked, facts) if finding.code in case.get("only", codes()))


def cluster(case: dict[str, Any]) -> tuple[Inventory, ClusterFacts]:
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
    return asked, replace(facts, digests=digests, deep=deep)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_findings_of_a_cluster(case: dict[str, Any]) -> None:
    findings = found(case)
    assert [(f.code, list(f.nodes)) for f in findings] == [(e["code"], e["nodes"]) for e in case["expect"]]
    for finding, expected in zip(findings, case["expect"], strict=True):
        for value in expected["seen"]:
            assert str(value) in finding.seen, f"{finding.code} does not say {value!r}: {finding.seen!r}"
        for value in expected.get("fix", ()):
            assert value in finding.fix, f"{finding.code} does not advise {value!r}: {finding.fix!r}"


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_every_finding_says_why_and_what_next_in_text_and_in_json(case: dict[str, Any]) -> None:
    for finding in found(case):
        assert finding.why
        assert finding.fix
        text = "\n".join(finding.lines())
        assert all(part in text for part in (finding.code, finding.seen, finding.fix, *finding.nodes))
        assert json.loads(json.dumps(finding.to_json()))["code"] == finding.code


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_rule_yields_only_what_it_declares(case: dict[str, Any]) -> None:
    for rule in rules():
        names = {code.name for code in rule.codes}
        assert {finding.code for finding in rule(*cluster(case))} <= names, rule.find.__module__


def test_every_code_has_a_case() -> None:
    assert codes().keys() == {expected["code"] for case in CASES for expected in case["expect"]}


def test_every_file_of_the_folder_is_one_rule_that_shares_no_code() -> None:
    files = {path.stem for path in Path(rules_folder.__file__).parent.glob("*.py")} - {"__init__"}
    assert sorted(rule.find.__module__.rpartition(".")[2] for rule in rules()) == sorted(files)
    named = [name for rule in rules() for name in {code.name for code in rule.codes}]
    assert sorted(named) == sorted(set(named))


def test_findings_come_in_the_order_of_the_sections() -> None:
    order = list(Section)
    places = [(order.index(rule.section), rule.find.__module__) for rule in rules()]
    assert places == sorted(places)
    assert {rule.section for rule in rules()} == set(Section)


@pytest.mark.parametrize("wordings", codes().values(), ids=codes())
def test_wordings_of_a_code_differ_in_nothing_else(wordings: tuple[Code, ...]) -> None:
    first, *others = wordings
    assert [first.variant(seen=other.seen, why=other.why, fix=other.fix) for other in others] == others


def code(**changes: Any) -> Code:
    texts = {"title": "t", "runbook": "r.md", "seen": "no {what}", "why": "why", "fix": "get {what}"}
    return Code(**{"name": "a-code", "severity": Severity.ERROR, **texts, **changes})


def test_a_finding_has_the_texts_and_the_severity_of_its_code() -> None:
    finding = code().found("gpu1", what="{braces} and all")
    assert finding == Finding("a-code", Severity.ERROR, ("gpu1",), "no {braces} and all", "why", "get {braces} and all")
    assert code(unless="sometimes").found(severity=Severity.WARNING, what="x").severity is Severity.WARNING
    with pytest.raises(ValueError, match="always of severity error"):
        code().found(severity=Severity.WARNING, what="x")
    with pytest.raises(KeyError):
        code().found()


OTHER_ENGINE = EngineCommands("podman", "podman", "/run/podman/podman.sock")
DOCKERS = re.compile(r"(?<!/)\bdocker\b(?!\.)")
"""Docker's program, service or group; not its name, nor docker.io and docker.com, nor a path."""


def test_a_text_holds_the_commands_of_the_nodes_engine() -> None:
    restart = code(fix=lambda engine: f"{engine.restart}; {engine.pull('{what}')}")
    assert restart.found("gpu1", engine=DOCKER, what="a:1").fix == "systemctl restart docker; docker pull a:1"
    assert restart.found("gpu1", engine=OTHER_ENGINE, what="a:1").fix == "systemctl restart podman; podman pull a:1"
    with pytest.raises(ValueError, match="which engine"):
        restart.found("gpu1", what="a:1")


@pytest.mark.parametrize("wordings", codes().values(), ids=codes())
def test_no_code_spells_dockers_commands(wordings: tuple[Code, ...]) -> None:
    for wording in wordings:
        _, why, fix = wording.texts(OTHER_ENGINE)
        assert not DOCKERS.search(f"{why}\n{fix}")


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_finding_names_the_commands_of_its_nodes(case: dict[str, Any]) -> None:
    asked, facts = cluster(case)
    nodes = {name: replace(node, commands=OTHER_ENGINE) for name, node in facts.nodes.items()}
    for finding in check(asked, replace(facts, nodes=nodes)):
        assert not (nodes and DOCKERS.search(f"{finding.why}\n{finding.fix}"))


def test_what_a_plan_cures_stops_nothing() -> None:
    cured = code(cured_by="transfer").found("gpu1", what="image")
    other = code().found("gpu1", what="driver")
    assert is_error(cured)
    assert not is_error(cured, {"transfer"})
    assert not has_errors([cured], {"transfer"})
    assert has_errors([cured, other], {"transfer"})
    assert passed((cured,), {"transfer"}) == (cured,)
    with pytest.raises(ChecksFailedError):
        passed((cured,))
    hint = ChecksFailedError([cured, other], {"transfer"}).hint
    assert hint is not None
    assert hint.startswith("1 finding to fix first")


def test_json_says_what_cures_a_finding_only_where_something_does() -> None:
    assert code(cured_by="transfer").found(what="image").to_json()["cured_by"] == "transfer"
    assert "cured_by" not in code().found(what="image").to_json()


def test_a_refusal_to_start_holds_every_finding_and_counts_the_errors() -> None:
    finding = Finding("image-absent", Severity.ERROR, ("gpu2",), "no image", "it is needed", "docker pull")
    warning = Finding("clock", Severity.WARNING, ("gpu1",), "2 s apart", "logs", "chrony")
    error = ChecksFailedError([finding, warning])
    assert "no image" in error.message
    assert "2 s apart" in error.message
    assert error.hint is not None
    assert error.hint.startswith("1 finding to fix")
