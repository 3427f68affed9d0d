"""`clusterctl explain`: logs of strangers, each with the line that says why; with the tables, and without the row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from clusterctl.cli.main import cli
from clusterctl.diagnosis.causes import explain
from clusterctl.errors import UsageError
from clusterctl.signatures import kernel, nccl, vllm
from clusterctl.signatures.signature import Signature
from tests.unit.support import FIXTURES

LOGS = FIXTURES / "logs"
FOREIGN = {
    "foreign/mink.log": ("layout-kernel-tile", "not divisible by min_thread_k = 128"),
    "foreign/modelwrapper.log": ("tokenizer-newer", "untagged enum ModelWrapper"),
    "foreign/nvls.log": ("nvlink-multicast", "transport/nvls.cc:254 NCCL WARN"),
    "foreign/perm2.log": ("model-unreadable", "Invalid repository ID or local directory specified"),
    "foreign/ptxas.log": ("gpu-newer-than-image", "'sm_121a' is not defined"),
    "foreign/tokenizer.log": ("tokenizer-unknown", "Tokenizer class TokenizersBackend does not exist"),
    "vllm-0.32-no-python-headers.log": ("compiler-missing", "CppCompileError: C++ compile error"),
}
"""Log -> what it is called, and the line that says so."""

UNKNOWN_LINES = {
    **{name: line for name, (_, line) in FOREIGN.items()},
    "foreign/nvls.log": "Failed to bind NVLink SHARP (NVLS) Multicast memory",
    "foreign/ptxas.log": "PTXASError: PTXAS error: Internal Triton PTX codegen error",
    "vllm-0.32-no-python-headers.log": "main.cpp:76:10: fatal",
}
"""The line that must stand first when its row is not there: NCCL's own words, and the last exception."""


def text(name: str) -> str:
    return (LOGS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FOREIGN)
def test_the_right_line_stands_first_with_its_meaning_and_a_fix(name: str) -> None:
    code, line = FOREIGN[name]
    first, *_ = explain(text(name))
    assert (first.name, first.certainty) == (code, "likely")
    assert line in first.seen[0]
    assert first.fix


def without(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The tables without the rows of this name."""

    def others(table: tuple[Signature, ...]) -> tuple[Signature, ...]:
        return tuple(row for row in table if row.name != name)

    for module in (vllm, nccl, kernel):
        monkeypatch.setattr(module, "SIGNATURES", others(module.SIGNATURES))


@pytest.mark.parametrize("name", FOREIGN)
def test_without_its_row_the_last_error_before_the_first_consequence_stands_first(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, FOREIGN[name][0])
    first, *_ = explain(text(name))
    assert UNKNOWN_LINES[name] in first.seen[0]


DIED = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
JOURNAL = "Aug 19 18:34:30 vllm vllm[8707]: "
NO_ROUTE = (
    "node5:240:240 [6] misc/socket.cc:533 NCCL WARN socketPollConnect: Connect to 10.0.0.4<56849> returned "
    "113(No route to host) errno 115(Operation now in progress)"
)
SIBLINGS = {
    "NCCL's own words are a known line": (
        [
            f"(RayWorkerWrapper pid=240, ip=10.0.0.5) {NO_ROUTE}",
            "(RayWorkerWrapper pid=240) ERROR 04-16 01:01:44 [worker_base.py:620] RuntimeError: NCCL error: unhandled "
            "system error (run with NCCL_DEBUG=INFO for details) [repeated 6x across cluster]",
            f"(APIServer pid=1) {DIED}",
        ],
        "peer-unreachable",
        "No route to host",
    ),
    "mp's wrapper of a worker's exception": (
        [
            "(Worker_TP1 pid=301) ERROR 11-24 08:50:34 [multiproc_executor.py:842] OSError: libcudart.so.12: cannot "
            "open shared object file: No such file or directory",
            "(EngineCore_DP0 pid=28140) Exception: WorkerProc initialization failed due to an exception in a "
            "background process. See stack trace for root cause.",
            f"(APIServer pid=27979) {DIED}",
        ],
        "unknown-error",
        "libcudart.so.12",
    ),
    "journald's words before each line": (
        [
            f"{JOURNAL}(EngineCore pid=8801) ERROR 08-19 18:34:28 [core.py:1231] AssertionError: duplicate template "
            "name",
            f"{JOURNAL}(APIServer pid=8707) {DIED}",
        ],
        "unknown-error",
        "duplicate template name",
    ),
    "Docker Compose's": (
        [
            "vllm-1  | (EngineCore pid=80) ERROR 08-19 18:34:28 [core.py:1231] AssertionError: duplicate template name",
            f"vllm-1  | (APIServer pid=1) {DIED}",
        ],
        "unknown-error",
        "duplicate template name",
    ),
    "an exception in a destructor after the reason": (
        [
            "(RayWorkerVllm pid=14289) ERROR 04-17 09:00:33 ray_utils.py:44] RuntimeError: CUDA error: no kernel image "
            "is available for execution on the device",
            "(RayWorkerVllm pid=14289) Exception ignored in: <function NCCLCommunicator.__del__ at 0x7f4d8c3212d0>",
            "(RayWorkerVllm pid=14289) AttributeError: 'NCCLCommunicator' object has no attribute 'comm'",
            f"(APIServer pid=1) {DIED}",
        ],
        "gpu-newer-than-image",
        "no kernel image is available",
    ),
    "a channel of Ray's that timed out": (
        [
            "ERROR 04-16 11:53:48 [core.py:387] ray.exceptions.RayChannelTimeoutError: System error: Timed out waiting "
            "for object available to read.",
            "CRITICAL 04-16 11:53:49 [core_client.py:359] Got fatal signal from worker processes, shutting down.",
        ],
        "unknown-error",
        "RayChannelTimeoutError",
    ),
}
"""Lines of public reports, not of one version: what is put around a reason must not hide it."""


@pytest.mark.parametrize("name", SIBLINGS)
def test_what_stands_around_the_reason_does_not_hide_it(name: str) -> None:
    lines, code, words = SIBLINGS[name]
    first, *others = explain("\n".join(lines))
    assert (first.name, first.certainty) == (code, "likely")
    assert words in first.seen[0]
    assert "nccl-failed" not in {cause.name for cause in others}


@pytest.mark.parametrize("name", SIBLINGS)
def test_nor_does_it_where_no_table_knows_the_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, code, words = SIBLINGS[name]
    without(monkeypatch, code)
    first, *_ = explain("\n".join(lines))
    assert words in first.seen[0]


def test_a_consequence_alone_explains_nothing_else_away() -> None:
    (only,) = explain("(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.\n")
    assert (only.name, only.certainty) == ("worker-died", "likely")


def test_a_healthy_log_has_no_likely_cause() -> None:
    assert all(cause.certainty != "likely" for cause in explain(text("vllm-0.32-healthy.log")))
    assert explain("nothing\nof it\n") == ()


def test_the_kernel_s_lines_are_explained_too() -> None:
    line = "[ 512.1] nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up"
    (found,) = explain(line)
    assert (found.name, found.seen) == ("nvswitch-fault", (line,))


def test_handled_exceptions_in_warnings_accuse_nobody() -> None:
    log = "WARNING 11-21 12:10:40 [x.py:1] ImportError: no flash_attn here\nINFO 11-21 12:10:41 [y.py:1] up\n"
    assert explain(log) == ()


def test_a_counter_of_errors_is_no_error() -> None:
    assert explain("[state-dump] - num chunks received failed / plasma error: 0\n") == ()


def run(*words: str, stdin: str | None = None) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, ["explain", *words], input=stdin)
    return done.exit_code, done.stdout, done.stderr


def test_the_command_ranks_and_needs_no_inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(str(LOGS / "foreign/ptxas.log"), "--json")
    causes: list[dict[str, Any]] = json.loads(out)["causes"]
    assert code == 0
    assert [cause["rank"] for cause in causes] == [1, 2]
    assert causes[0]["code"] == "gpu-newer-than-image"
    assert set(causes[0]) == {"rank", "code", "line", "meaning", "fix", "runbook"}
    _, out, _ = run("--json", stdin="EngineCore: x\nOddError: nobody knows it\nEngineDeadError: it died\n")
    unknown, consequence = json.loads(out)["causes"]
    assert (unknown["code"], unknown["fix"], unknown["runbook"]) == (None, None, None)
    assert unknown["line"] == "OddError: nobody knows it"
    assert consequence["code"] == "worker-died"


def test_standard_input_and_exit_codes(tmp_path: Path) -> None:
    code, out, _ = run("-", stdin=text("foreign/mink.log"))
    assert code == 0
    assert out.startswith("1. likely [layout-kernel-tile]")
    assert "see: docs/runbooks/start-causes.md" in out
    code, out, _ = run(stdin="all is well\n")
    assert (code, out.strip()) == (1, "No known line and no error was found.")
    missing = CliRunner().invoke(cli, ["explain", str(tmp_path / "none.log")])
    assert isinstance(missing.exception, UsageError)
    assert (missing.exception.exit_code, "none.log" in missing.exception.message) == (2, True)
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 100)
    code, _, _ = run(str(tmp_path / "binary"))
    assert code == 1
