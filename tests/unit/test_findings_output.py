"""Findings for pipelines (JUnit XML), and codes explained."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from clusterctl.errors import UsageError
from clusterctl.findings.explain import explain
from clusterctl.findings.finding import Finding, Severity
from clusterctl.findings.junit import junit_xml
from clusterctl.findings.rules import codes


def finding(code: str, severity: Severity = Severity.ERROR, *, waived: bool = False) -> Finding:
    return Finding(code, severity, ("gpu1",), "a <b> & \x1b[31m", "why", "fix", waived)


def case(xml: str, name: str) -> ElementTree.Element:
    (found,) = [case for case in ElementTree.fromstring(xml) if case.get("name") == name]  # noqa: S314 (our own)
    return found


def test_an_error_fails_its_case_and_no_other() -> None:
    xml = junit_xml(["image-absent", "port-taken"], [finding("image-absent")])
    suite = ElementTree.fromstring(xml)  # noqa: S314 (our own)
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("2", "1", "0")
    failure = case(xml, "image-absent").find("failure")
    assert failure is not None
    assert (failure.get("message") or "").startswith("gpu1: a <b> & ")
    assert len(case(xml, "port-taken")) == 0


def test_a_waived_error_is_skipped_and_a_warning_passes() -> None:
    xml = junit_xml(["a", "b"], [finding("a", waived=True), finding("b", Severity.WARNING)])
    assert case(xml, "a").find("skipped") is not None
    assert case(xml, "a").find("failure") is None
    assert case(xml, "b").find("failure") is None
    assert "fix: fix" in (case(xml, "b").findtext("system-out") or "")


@pytest.mark.parametrize("code", sorted(codes()))
def test_every_code_is_explained(code: str) -> None:
    text = explain(code)
    assert text.startswith(f"{code}: ")
    for word in ("Seen:", "Why:", "Fix:", "Severity:", "Runbook:"):
        assert word in text


def test_an_unknown_code_names_the_nearest() -> None:
    with pytest.raises(UsageError) as refused:
        explain("image-abscent")
    assert refused.value.hint == "did you mean image-absent?"
