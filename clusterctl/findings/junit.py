"""Findings as JUnit XML, the format that CI systems show: one test case a finding code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

from clusterctl.findings.finding import Finding, Severity


def junit_xml(codes: Iterable[str], findings: Sequence[Finding]) -> str:
    """Every code that is looked for as a test case: failed by errors, skipped when waived, passed otherwise; warnings
    stand in its output."""
    suite = ElementTree.Element("testsuite", name="clusterctl check")
    counts = {"tests": 0, "failures": 0, "skipped": 0}
    for code in codes:
        case = ElementTree.SubElement(suite, "testcase", classname="clusterctl.check", name=code)
        counts["tests"] += 1
        mine = [finding for finding in findings if finding.code == code]
        waived = [finding for finding in mine if finding.waived]
        failing = [finding for finding in mine if finding.severity is Severity.ERROR and not finding.waived]
        warnings = [finding for finding in mine if finding.severity is Severity.WARNING and not finding.waived]
        if failing:
            counts["failures"] += 1
            failure = ElementTree.SubElement(case, "failure", message=_message(failing[0]), type=code)
            failure.text = _text(failing)
        elif waived:
            counts["skipped"] += 1
            ElementTree.SubElement(case, "skipped", message=f"waived: {_message(waived[0])}")
        if warnings:
            ElementTree.SubElement(case, "system-out").text = _text(warnings)
    suite.attrib.update({name: str(count) for name, count in counts.items()}, errors="0")
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def _message(finding: Finding) -> str:
    nodes = f"{', '.join(finding.nodes)}: " if finding.nodes else ""
    return _printable(f"{nodes}{finding.seen}")


def _text(findings: Sequence[Finding]) -> str:
    return _printable("\n".join(line for finding in findings for line in finding.lines()))


def _printable(text: str) -> str:
    """XML 1.0 has no place for control characters, and what nodes print may hold some."""
    return "".join(c if c in "\n\t" or c.isprintable() else "�" for c in text)
