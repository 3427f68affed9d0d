"""The table of failure modes is whole, names every finding, and says truly what is tested (failure_modes.yaml)."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusterctl.findings.rules import codes
from tests.docs.pages import ROOT, rows, sections

PAGE = ROOT / "docs/reference/failure-modes.md"
WITHOUT_NUMBER = "Findings without a number"
KINDS = ("lab", "fixture", "H200")
TESTED_AT_LEAST = 55
"""Rows that some test covers: the aim that was set for the first release."""

EVIDENCE: dict[str, dict[str, list[str]]] = yaml.safe_load(
    Path(__file__).with_name("failure_modes.yaml").read_text(encoding="utf-8")
)
ROWS = {row[0]: row for row in rows(PAGE.read_text(encoding="utf-8")) if re.fullmatch(r"F\d+", row[0])}


def codes_in(text: str) -> set[str]:
    """Findings that a text links to."""
    return set(re.findall(r"\(findings\.md#([a-z0-9-]+)\)", text))


@cache
def functions(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@cache
def cases(file: str) -> dict[str, Any]:
    """Name → case, of a file of cases."""
    folder = "tests/inventory" if file.startswith("problems") else "tests/unit/fixtures"
    return {case["name"]: case for case in yaml.safe_load((ROOT / folder / file).read_text(encoding="utf-8"))}


@cache
def explained() -> frozenset[str]:
    lines = yaml.safe_load((ROOT / "tests/unit/fixtures/causes.yaml").read_text(encoding="utf-8"))
    return frozenset(case["mode"] for case in lines)


def test_every_number_has_one_row_and_the_numbers_stay() -> None:
    text = PAGE.read_text(encoding="utf-8")
    numbers = re.findall(r"^\| (F\d+) \|", text, re.MULTILINE)
    assert numbers == [f"F{number}" for number in range(1, 71)]


def test_every_code_has_its_place_and_no_other_is_named() -> None:
    numbered = set().union(*(codes_in(cell) for row in ROWS.values() for cell in row))
    others = codes_in(sections(PAGE, 2)[WITHOUT_NUMBER])
    assert numbered | others == codes().keys()
    assert numbered & others == set()


@pytest.mark.parametrize("number", ROWS)
def test_a_row_says_how_it_is_tested(number: str) -> None:
    *_, inside, tested, source = ROWS[number]
    assert inside, "what clusterctl does about it, or why nothing"
    assert "not checked" not in inside
    assert source
    # What only `check --nccl` explains is not in the table of failed starts.
    assert not re.search(r"\bexplained(?! by)", inside) or number in explained(), "no line in causes.yaml"
    kinds = EVIDENCE.get(number, {})
    assert set(kinds) <= set(KINDS)
    assert tested == (", ".join(kind for kind in KINDS if kind in kinds) or "–")


@pytest.mark.parametrize("number", EVIDENCE)
def test_the_tests_of_a_row_exist_and_are_about_it(number: str) -> None:
    for kind, references in EVIDENCE[number].items():
        assert references
        for reference in references:
            if reference == "causes.yaml":
                assert number in explained(), f"{number}: no line in causes.yaml"
            elif "::" in reference:
                path, _, function = reference.partition("::")
                assert function in functions(path), reference
            else:
                file, _, name = reference.partition(": ")
                told = {expected["code"] for expected in cases(file)[name].get("expect", [])}
                assert not told or told & codes_in(ROWS[number][-3]), f"{number}: {reference} is about {told}"
            assert (kind == "lab") == reference.startswith("tests/lab/"), reference


def test_enough_rows_are_tested() -> None:
    assert len(EVIDENCE) >= TESTED_AT_LEAST
