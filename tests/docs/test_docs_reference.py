"""Reference pages and runbooks say what the code says: nothing missing, nothing that is not there any more."""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from clusterctl.agent.paths import SOURCES
from clusterctl.agent.reasons import FAILURES, MEANINGS, RETURNS
from clusterctl.diagnosis.cause import Certainty
from clusterctl.errors import ExitCode
from clusterctl.findings.finding import Finding
from clusterctl.findings.reference import reference_markdown
from clusterctl.findings.rules import codes
from clusterctl.hosts.engine.commands import DOCKER
from clusterctl.inventory.model import Timeouts
from clusterctl.modes.engines import EngineStatus
from clusterctl.planning.files import MAX_RESTARTS
from clusterctl.signatures import kernel as kernel_log
from clusterctl.signatures import vllm as vllm_log
from clusterctl.signatures.start import KvCache
from clusterctl.status.server import Completion, Metrics
from clusterctl.status.status import CacheStatus, ClusterStatus, ContainerStatus, GpuStatus, NodeStatus, ServerAnswers
from tests.docs.pages import PAGES, ROOT, links, rows, sections

FINDINGS = ROOT / "docs/reference/findings.md"
START_FAILED = ROOT / "docs/runbooks/start-failed.md"
START_CAUSES = ROOT / "docs/runbooks/start-causes.md"
SELF_HEALING = ROOT / "docs/explanation/self-healing.md"
RECOVERING = ROOT / "docs/runbooks/recovering.md"
FAILURE_MODES = ROOT / "docs/reference/failure-modes.md"
MULTILINE = re.MULTILINE | re.DOTALL
STATUS_TYPES = (
    ClusterStatus,
    EngineStatus,
    NodeStatus,
    CacheStatus,
    ContainerStatus,
    GpuStatus,
    ServerAnswers,
    Completion,
    Metrics,
    KvCache,
    Finding,
)


def normal(text: str) -> str:
    return " ".join(text.split())


def source_files() -> Iterator[Path]:
    yield from sorted((ROOT / "clusterctl").rglob("*.py"))


def calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    """Calls of a function by its name, however it was imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            called = node.func
            if name == (called.id if isinstance(called, ast.Name) else getattr(called, "attr", None)):
                yield node


def message(template: str) -> re.Pattern[str]:
    """What a finding with this text looks like, its values left open."""
    words = re.sub(r"\\\{\w+\\\}", ".*?", re.escape(normal(template)).replace(r"\ ", " "))
    return re.compile(rf"{words}( why: .*)?")


def test_the_page_of_findings_is_fresh() -> None:
    page = FINDINGS.read_text(encoding="utf-8")
    assert page == reference_markdown(), "run: python -m clusterctl.findings.reference > docs/reference/findings.md"


@pytest.mark.parametrize("code", sorted(codes()))
def test_a_finding_is_documented_with_its_own_words(code: str) -> None:
    entry = normal(sections(FINDINGS, 3)[code])
    for wording in codes()[code]:
        for text in wording.texts(DOCKER):
            parts = (normal(part) for part in re.split(r"\{\w+\}", text))
            assert [part for part in parts if part not in entry.replace("\\", "")] == []
    assert all(f"**{part}:**" in entry for part in ("Seen", "Why", "Fix", "Severity", "Runbook"))


@pytest.mark.parametrize("code", sorted(codes()))
def test_a_finding_has_a_runbook_that_shows_its_message(code: str) -> None:
    target = next((link for link in links(FINDINGS) if link.endswith(f"#{code}")), None)
    assert target is not None
    runbook = (FINDINGS.parent / target.partition("#")[0]).resolve()
    assert runbook.parent.name == "runbooks"
    text = sections(runbook, 2)[code]
    assert all(f"**{part}" in text for part in ("Symptom", "Confirm", "Fix", "Verify"))
    shown = re.findall(rf"^(error|warning) \[{code}\](.*?)(?=\n```|\n(?:error|warning) \[)", text, MULTILINE)
    assert shown
    wordings = codes()[code]
    for severity, line in shown:
        assert severity == wordings[0].severity or wordings[0].unless
        texts = normal(line), normal(line.partition(": ")[2])  # of a finding of no node, and of one of some
        assert any(message(wording.seen).fullmatch(text) for wording in wordings for text in texts), line


def test_every_reason_of_a_failed_start_has_its_runbook() -> None:
    found = sections(START_FAILED, 2)
    assert {title for title in found if re.fullmatch(r"[a-z]+(-[a-z]+)+", title)} == set(FAILURES)
    for reason, meaning in FAILURES.items():
        message = normal(found[reason].partition("```text")[2].partition("```")[0])
        assert re.search(rf"^\S+: .+: {re.escape(normal(meaning))} \(phase: \w+\)", message), reason


def test_every_reason_for_a_restart_is_in_the_table_with_its_meaning() -> None:
    told = {
        code.strip("`"): normal(meaning)
        for code, meaning, *_ in rows(sections(SELF_HEALING, 2)["Reasons in the record"])
        if code.startswith("`")
    }
    assert told == {reason: normal(meaning) for reason, meaning in MEANINGS.items()}


def test_every_reason_that_the_agent_gives_is_explained() -> None:
    failures, returns = reasons_in_agent()
    assert failures - set(FAILURES) == set()
    assert returns - set(RETURNS) == set()
    # The other way round: nothing is explained that no agent says any more.
    assert (set(FAILURES), set(RETURNS)) == (failures, returns)


def reasons_in_agent() -> tuple[set[str], set[str]]:
    """Reasons to give up and to come back: arguments in the agent's sources, what `_lost` returns there, and what the
    modes call a process's end."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES.values()]
    modes = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "clusterctl/modes").glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    (lost,) = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == "_lost"]
    returned = [word for node in ast.walk(lost) if isinstance(node, ast.Return) for word in ast.walk(node)]
    failures = [call.args[0] for tree in trees for call in calls(tree, "GiveUpError")]
    failures += [call.args[1] for tree in modes for call in calls(tree, "ProcessLives")]
    returns = [call.args[1] for tree in trees for call in calls(tree, "restart") if len(call.args) > 1]
    return texts([*failures, *returned]), texts(returns)


def texts(expressions: Iterable[ast.AST]) -> set[str]:
    """The text constants among them that look like a reason's code."""
    constants = {node.value for node in expressions if isinstance(node, ast.Constant)}
    return {value for value in constants if isinstance(value, str) and re.fullmatch(r"[a-z]+(-[a-z]+)*", value)}


def test_what_the_agent_mends_and_waits_for_are_reasons_that_it_gives() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in SOURCES.values())
    for name in ("SERVER_REASONS", "WAITED_FOR"):
        (block,) = re.findall(rf"^{name} = frozenset\(\s*\{{(.*?)\}}\s*\)", source, re.MULTILINE | re.DOTALL)
        assert set(re.findall(r'"([a-z-]+)"', block)) <= set(FAILURES)


def test_numbers_of_the_healing_are_those_of_the_code() -> None:
    text = normal(SELF_HEALING.read_text(encoding="utf-8")) + normal(RECOVERING.read_text(encoding="utf-8"))
    agent = "".join(path.read_text(encoding="utf-8") for path in SOURCES.values())
    constants = {name: float(value) for name, value in re.findall(r"^([A-Z_]+_S) = ([\d.]+)$", agent, re.MULTILINE)}
    defaults = Timeouts()
    assert f"**{constants['STABLE_S']:g} s** of service" in text
    assert f"**{MAX_RESTARTS}** failures" in text
    assert f"after {MAX_RESTARTS} restarts in a row" in text
    assert f"`timeouts.hang_s`, {defaults.hang_s:g} s" in text
    assert f"`timeouts.canary_interval_s`, {defaults.canary_interval_s:g} s" in text
    assert f"`timeouts.ray_s`, {defaults.ray_s:g} s" in text
    assert f"for {constants['ACTORS_GONE_S']:g} s" in text


def test_every_explained_cause_is_in_the_table() -> None:
    told = {
        (name.strip("`"), re.sub(r"\[(F\d+)\]\(.*\)", r"\1", number).replace("–", "-"), meaning, fix)
        for name, number, _, meaning, fix in rows(START_CAUSES.read_text(encoding="utf-8"))
    }
    assert told == {
        (row.name, row.failure_mode or "-", normal(row.meaning), normal(row.fix)) for row in vllm_log.SIGNATURES
    }


def test_the_lines_shown_for_a_cause_are_explained_by_it() -> None:
    for _, _, lines, meaning, _ in rows(START_CAUSES.read_text(encoding="utf-8")):
        for line in re.findall(r"`([^`]+)`", lines):
            assert meaning in [cause.meaning for cause in vllm_log.causes([line])], line


def test_faults_that_the_kernels_log_tells_of_are_in_the_page() -> None:
    page = ROOT / "docs/how-to/diagnose.md"
    told = {row for row in rows(sections(page, 2)["How causes are ranked"]) if len(row) == 3}
    assert {(f"`{row.name}`", normal(row.meaning), normal(row.fix)) for row in kernel_log.SIGNATURES} == told


def test_words_for_how_sure_a_cause_is_are_explained() -> None:
    told = {row[0].strip("`") for row in rows(sections(ROOT / "docs/how-to/diagnose.md", 2)["How causes are ranked"])}
    assert {str(certainty) for certainty in Certainty} <= told


def test_every_failure_mode_that_is_named_is_documented() -> None:
    documented = {row[0] for row in rows(FAILURE_MODES.read_text(encoding="utf-8"))}
    texts = [path.read_text(encoding="utf-8") for path in (*source_files(), *PAGES)]
    named = {match for text in texts for match in re.findall(r"\bF[1-9]\d?\b", text)}
    assert named - documented == set()


def test_exit_codes_are_those_of_the_code() -> None:
    table = rows((ROOT / "docs/reference/exit-codes.md").read_text(encoding="utf-8"))
    told = {(int(code), name.strip("`")) for code, name, *_ in table}
    assert told == {(int(value), name) for name, value in ExitCode.__members__.items()}


def test_exit_codes_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    codes = [code for code, *_ in rows(readme[readme.index("| Code | Meaning |") :]) if re.match(r"\d", code)]
    assert sorted(int(n) for code in codes for n in code.split(", ")) == sorted(int(code) for code in ExitCode)


def test_fields_of_the_status_are_documented() -> None:
    told = {
        name: [row[0].strip("`") for row in rows(text)]
        for name, text in sections(ROOT / "docs/reference/status-json.md", 2).items()
    }
    assert told == {kind.__name__: [field.name for field in fields(kind)] for kind in STATUS_TYPES}
