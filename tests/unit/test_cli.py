"""The command line as a person meets it: exit codes, messages with file and line, and never a traceback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusterctl import __version__
from clusterctl.cli import main
from tests.unit.support import BASE, merged

COMMANDS = [["up"], ["plan"], ["status"], ["down"], ["logs"], ["verify"], ["bench"]]


class Doorbell:
    """A port that the inventory's nodes are said to have; it counts who rings, and answers nobody."""

    def __init__(self) -> None:
        first = socket.create_server(("127.0.0.1", 0))
        self.port = first.getsockname()[1]
        self.sockets = [first, socket.create_server(("127.0.0.2", self.port))]
        self.rung = 0
        for listener in self.sockets:
            threading.Thread(target=self._count, args=(listener,), daemon=True).start()

    def _count(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.rung += 1
            connection.close()


@pytest.fixture
def door() -> Iterator[Doorbell]:
    bell = Doorbell()
    yield bell
    for listener in bell.sockets:
        listener.close()


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLUSTERCTL_INVENTORY", raising=False)
    monkeypatch.delenv("CLUSTERCTL_DEBUG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def write(changes: dict[str, Any], door: Doorbell) -> None:
    nodes = [{"name": f"gpu{n}", "host": f"127.0.0.{n}", "port": door.port, "user": "nobody"} for n in (1, 2)]
    said = merged({**BASE, "nodes": nodes, "timeouts": {"connect_s": 2}}, changes)
    Path("inventory.yaml").write_text(yaml.safe_dump(said, sort_keys=False), encoding="utf-8")


def run(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    monkeypatch.setattr(sys, "argv", ["clusterctl", *argv])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_wrong_inventory_is_2_with_file_and_line_before_any_node_is_asked(
    command: list[str], door: Doorbell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write({"container": {"imgae": "x"}, "accelerator": {"per_node": "many"}}, door)
    assert run(monkeypatch, *command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = Path("inventory.yaml").read_text(encoding="utf-8").splitlines()
    for key in ("imgae", "per_node"):
        number = next(n for n, line in enumerate(lines, start=1) if key in line)
        assert f"inventory.yaml:{number}:" in err
    assert "Traceback" not in err
    assert door.rung == 0


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_inventory_is_2_and_names_the_file(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "-i", "nowhere.yaml", *command) == 2
    assert "nowhere.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--no-such-option", "up"], "--no-such-option"),
        (["upp"], "upp"),
        (["up", "extra"], "extra"),
        (["logs", "--tail", "many"], "many"),
        (["logs", "--tail", "-1"], "-1"),
        (["status", "--interval", "0"], "0"),
        (["verify", "--compare", "nowhere.json"], "nowhere.json"),
        (["verify", "--compare", "inventory.yaml"], "inventory.yaml is no JSON"),
        (["verify", "--output", "inventory.yaml/below"], "inventory.yaml/below"),
        (["bench", "--compare", "inventory.yaml"], "inventory.yaml is no JSON"),
        (["bench", "--output", "inventory.yaml/below"], "inventory.yaml/below"),
        (["bench", "--shape", "64"], "INPUT:OUTPUT"),
        (["bench", "--shape", "0:5"], "INPUT:OUTPUT"),
        (["bench", "--concurrency", "1,x"], "positive numbers"),
        (["bench", "--concurrency", "0"], "positive numbers"),
        (["bench", "--request-rate", "0.0"], "positive numbers"),
        (["bench", "--concurrency", "1", "--request-rate", "1"], "not both"),
        (["-i"], "-i"),
    ],
)
def test_a_wrong_command_line_is_2_and_names_the_word(
    argv: list[str], words: str, door: Doorbell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write({}, door)
    assert run(monkeypatch, *argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert "Traceback" not in err
    assert door.rung == 0


def test_an_unknown_node_is_2_and_the_known_ones_are_named(
    door: Doorbell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write({}, door)
    assert run(monkeypatch, "logs", "--node", "gpu9") == 2
    err = capsys.readouterr().err
    assert "gpu9" in err
    assert "gpu1, gpu2" in err


def test_an_unknown_node_is_found_before_any_node_is_asked(door: Doorbell, monkeypatch: pytest.MonkeyPatch) -> None:
    write({}, door)
    run(monkeypatch, "logs", "--node", "gpu9")
    assert door.rung == 0


@pytest.mark.parametrize("command", [["up"], ["plan"], ["down"], ["logs"]], ids=" ".join)
def test_nodes_that_cannot_be_reached_are_1_and_all_named(
    command: list[str], door: Doorbell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write({}, door)
    assert run(monkeypatch, *command) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "gpu1" in err
    assert "gpu2" in err
    assert "fix:" in err
    assert "Traceback" not in err
    assert "bug" not in err


def test_status_of_nodes_that_cannot_be_reached_is_5_with_a_table_and_as_json(
    door: Doorbell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write({}, door)
    assert run(monkeypatch, "status") == 5
    assert "demo: unknown" in capsys.readouterr().out
    assert run(monkeypatch, "status", "--json") == 5
    found = json.loads(capsys.readouterr().out)
    assert [node["reachable"] for node in found["nodes"]] == [False, False]


def test_an_ssh_config_that_is_not_there_is_named_and_no_bug(
    door: Doorbell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write({"ssh": {"config": "no-such-config"}}, door)
    assert run(monkeypatch, "status") in (2, 5)
    err = capsys.readouterr().err
    assert "bug" not in err
    assert "no-such-config" in err


def test_a_bug_is_1_with_a_request_to_report_it_and_a_traceback_only_on_demand(
    door: Doorbell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    write({}, door)
    monkeypatch.setattr("clusterctl.inventory.load.load_inventory", broken)
    assert run(monkeypatch, "status") == 1
    err = capsys.readouterr().err
    assert "a bug in clusterctl" in err
    assert "boom" in err
    assert "CLUSTERCTL_DEBUG=1" in err
    assert "Traceback" not in err
    monkeypatch.setenv("CLUSTERCTL_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["clusterctl", "status"])
    with pytest.raises(RuntimeError):
        main()


def test_help_names_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    out = capsys.readouterr().out
    assert all(f"\n  {command[0]} " in out for command in COMMANDS)
    assert run(monkeypatch, "--version") == 0
    assert __version__ in capsys.readouterr().out


def test_the_schema_is_json_and_needs_no_inventory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "schema") == 0
    assert json.loads(capsys.readouterr().out)["properties"]["cluster"]


def test_the_inventory_can_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLUSTERCTL_INVENTORY", "from-environment.yaml")
    assert run(monkeypatch, "status") == 2
    assert "from-environment.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("command", "started"), [("status", False), ("check", False), ("up", True), ("down", True)])
def test_an_interrupt_is_130_at_once_also_while_nodes_are_waited_for(number: int, command: str, started: bool) -> None:
    with socket.socket() as silent:  # accepts, and never says a word
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        nodes = [{"name": "gpu1", "host": "127.0.0.1", "port": silent.getsockname()[1]}]
        said = {**BASE, "nodes": nodes, "timeouts": {"connect_s": 60}}
        Path("inventory.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", "clusterctl", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        connection, _ = silent.accept()
        with connection:
            time.sleep(0.5)  # a signal between two of Python's instructions and a wait is seen only after the wait
            began = time.monotonic()
            process.send_signal(number)
            _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert time.monotonic() - began < 5
    assert "interrupted" in err
    assert ("what was started keeps running" in err) is started, "only where something may have been started"
    assert "Traceback" not in err


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "clusterctl", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(20) == 0
