"""The benchmarks that break things cannot say "ok" of what they did not see: a fault that hit nothing, a request that
still hangs, an `up` that fails by itself."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks import faults_at_random, modes
from clusterctl.lab.commands import CommandError
from clusterctl.lab.lab import Lab
from tests.lab import during_up, faults


class Endpoint(BaseHTTPRequestHandler):
    """Answers completions; once `hang_s` is set, one request waits so long and fails, and the others are answered."""

    hang_s = 0.0
    lock = threading.Lock()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with Endpoint.lock:
            hang_s, Endpoint.hang_s = Endpoint.hang_s, 0.0
        time.sleep(hang_s)
        body = json.dumps({"usage": {"completion_tokens": asked["max_tokens"]}}).encode()
        self.send_response(500 if hang_s else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_request_that_still_hangs_is_waited_for_and_counted(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "STEADY_S", 0.7)

    def hang(_: Lab) -> None:
        Endpoint.hang_s = 3.0

    with faults.Load(endpoint, "tiny") as load:
        result = faults.suffer(cast(Lab, None), faults.Fault("one hangs", hang), load, 20)
    assert result.failed == 1
    assert result.longest_s >= 3.0
    assert result.recovery_s >= 3.0


class Node:
    """A lab whose node answers every command in one way."""

    def __init__(self, answer: str | CommandError) -> None:
        self.answer = answer
        self.asked: list[list[str]] = []

    def exec(self, _: str, argv: list[str]) -> str:
        self.asked.append(argv)
        if isinstance(self.answer, CommandError):
            raise self.answer
        return self.answer


def test_a_container_without_a_process_is_not_killed() -> None:
    node = Node("0\n")
    with pytest.raises(faults.NotInjectedError, match="no process"):
        faults.kill_container(cast(Lab, node), "node2", "demo")
    assert [argv[0] for argv in node.asked] == ["docker"]


def test_a_signal_that_met_no_process_is_no_fault() -> None:
    with pytest.raises(faults.NotInjectedError, match="VLLM::Worker"):
        faults.signal_process(
            cast(Lab, Node(CommandError(["pkill"], "exit code 1", ""))), "node2", "KILL", "VLLM::Worker"
        )


@pytest.fixture
def scene() -> during_up.Scene:
    """An `up` that has ended with 1."""
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"], stderr=subprocess.PIPE, text=True)
    process.wait()
    return during_up.Scene(cast(Lab, None), Path("inventory.yaml"), "demo", process)


def test_an_up_that_fails_by_itself_is_wrong_and_one_that_was_broken_is_not(scene: during_up.Scene) -> None:
    assert during_up._judge_up(scene, 1, "", "") == []
    (said,) = during_up._judge_up(scene, 1, "not reached", "")
    assert "nothing had been broken (not reached)" in said


def test_an_up_that_had_ended_takes_no_signal(scene: during_up.Scene) -> None:
    fault = during_up.faults("demo", "image:1")["operator Ctrl-C"]
    with pytest.raises(faults.NotInjectedError, match="had ended"):
        fault.inject(scene)


@pytest.mark.parametrize(
    ("not_injected", "lies", "verdict"),
    [("", (), "ok"), ("not reached", (), "not injected"), ("not reached", ("false ready",), "false ready")],
)
def test_a_run_without_its_fault_is_called_so(not_injected: str, lies: tuple[str, ...], verdict: str) -> None:
    outcome = during_up.Outcome("a fault", "loading", not_injected, 0, 1.0, "", "healthy", "down 0", lies)
    assert f"down 0         {verdict}  " in faults_at_random.line(0, outcome)


def row(cell: str, fault: str = "", **figures: Any) -> modes.Row:
    return modes.Row(cell, fault, (), figures, "abc", "2026-01-01")


def test_the_record_keeps_what_was_not_done_again_and_the_last_of_what_was(tmp_path: Path) -> None:
    record = tmp_path / "modes.jsonl"
    modes.recorded([row("PP2 over nodes, mp", seconds=1), row("TP1, one node")], record)
    rows = modes.recorded([row("PP2 over nodes, mp", seconds=2), row("PP2 over nodes, mp", "a kill")], record)
    found = [(each.cell, each.fault, each.figures) for each in rows]
    assert found == [
        ("TP1, one node", "", {}),
        ("PP2 over nodes, mp", "", {"seconds": 2}),
        ("PP2 over nodes, mp", "a kill", {}),
    ]
    assert [each.cell for each in modes.read(record)] == [each.cell for each in rows]
