"""Causes and their order, from evidence made for each case (fixtures/diagnosis.yaml)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from clusterctl.diagnosis.cause import Certainty
from clusterctl.diagnosis.causes import diagnose
from clusterctl.diagnosis.evidence import ContainerEvidence, Evidence, NodeEvidence, situation
from clusterctl.findings.finding import Finding, Severity
from clusterctl.signatures import kernel as kernel_log
from clusterctl.signatures.signature import explained
from tests.unit.support import FIXTURES

T0 = datetime(2026, 1, 2, 3, 0, 0, tzinfo=UTC).timestamp()
"""When the nodes of every case booted; a kernel line's time is in seconds since then."""
STARTED = T0 + 600

CASES = {case["name"]: case for case in yaml.safe_load((FIXTURES / "diagnosis.yaml").read_text(encoding="utf-8"))}
KERNEL = yaml.safe_load((FIXTURES / "kernel.yaml").read_text(encoding="utf-8"))


def stamped(lines: Mapping[int, str]) -> str:
    """Seconds after the container's start → line, as the engine shows them."""
    return "".join(
        f"{datetime.fromtimestamp(STARTED + s, UTC):%Y-%m-%dT%H:%M:%S}.000000000Z {line}\n" for s, line in lines.items()
    )


def kernel(lines: Mapping[float, str]) -> str:
    """Seconds since boot → line, as dmesg shows them, below its clock."""
    return f"clock 7200.00 {int(T0) + 7200}\n" + "".join(f"[{s:12.6f}] {line}\n" for s, line in lines.items())


def container(said: Mapping[str, Any]) -> ContainerEvidence:
    good = {"name": "demo-node", "role": "worker", "status": "running", "started_t": STARTED}
    return ContainerEvidence(**{**good, **said, "log": stamped(said.get("log", {}))})


def node(said: Mapping[str, Any]) -> NodeEvidence:
    containers = said.get("containers", [{}])
    return NodeEvidence(
        containers=None if containers is None else tuple(container(each) for each in containers),
        kernel=kernel(said.get("kernel", {})),
        ray=said.get("ray", {}),
        now=T0 + 7200,
    )


def evidence(case: Mapping[str, Any]) -> Evidence:
    return Evidence(
        head="gpu1",
        nodes={name: node(said or {}) for name, said in case.get("nodes", {"gpu1": {}, "gpu2": {}}).items()},
        unreachable={name: (reason, None) for name, reason in case.get("unreachable", {}).items()},
        findings=tuple(
            Finding(f["code"], Severity(f.get("severity", "error")), tuple(f.get("nodes", ())), "seen", "why", "fix")
            for f in case.get("findings", ())
        ),
        error=case.get("error"),
    )


@pytest.mark.parametrize("name", CASES)
def test_causes_and_their_order(name: str) -> None:
    found = diagnose(evidence(CASES[name]))
    assert [[str(c.certainty), c.code, *c.nodes] for c in found] == CASES[name]["expect"]
    assert CASES[name].get("means", "") in " ".join(cause.meaning for cause in found)
    for cause in found:
        assert cause.meaning
        assert cause.fix
        assert cause.why
        assert all(cause.lines())
        assert "Z " not in "".join(cause.seen)[:40], "a line is shown without the engine's time"


def test_what_there_is_in_a_sentence() -> None:
    assert situation(evidence({"nodes": {"gpu1": {"containers": []}}})).startswith("down")
    serving = {"containers": [{"state": {"phase": "serving", "ready": True}}]}
    assert situation(evidence({"nodes": {"gpu1": serving}})).startswith("serving")
    assert "1 of 2 containers running" in situation(evidence({"nodes": {"gpu1": {}, "gpu2": {"containers": [{"status": "exited"}]}}}))  # fmt: skip  # noqa: E501
    lost = situation(evidence({"nodes": {"gpu1": {"containers": None}}, "unreachable": {"gpu2": "no"}}))
    assert "(gpu2, gpu1 not reachable)" in lost


@pytest.mark.parametrize("case", KERNEL, ids=[case["line"][:50] for case in KERNEL])
def test_lines_of_the_kernel(case: dict[str, str]) -> None:
    found = explained(kernel_log.SIGNATURES, [case["line"]])
    assert [case["means"] in cause.meaning for cause in found[:1]] == ([True] if case["means"] else [])


def test_every_pattern_of_the_kernel_has_a_line() -> None:
    found = {explained(kernel_log.SIGNATURES, [case["line"]])[0].meaning for case in KERNEL if case["means"]}
    assert found == {signature.meaning for signature in kernel_log.SIGNATURES}


def test_times_of_the_kernels_lines() -> None:
    text = kernel({700.5: "hello"}) + "a line without a time\n"
    assert list(kernel_log.timed(text)) == [(T0 + 700.5, "[  700.500000] hello"), (None, "a line without a time")]
    assert list(kernel_log.timed("[    1.0] no clock\n")) == [(None, "[    1.0] no clock")]


def test_a_cause_is_told_to_machines() -> None:
    (cause,) = diagnose(evidence({"unreachable": {"gpu2": "no answer"}, "nodes": {"gpu1": {}}}))
    assert cause.certainty is Certainty.CERTAIN
    assert cause.to_json()["nodes"] == ["gpu2"]
