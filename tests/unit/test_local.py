"""This machine itself as a node: real processes behind the face of SSH channels."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterctl.hosts.engine.engine import EngineError
from clusterctl.hosts.host import Host, Hosts
from clusterctl.hosts.local.channel import UNREAD_BYTES, LocalChannel
from clusterctl.hosts.local.connection import LocalConnection
from clusterctl.hosts.ssh.errors import CommandTimeoutError, ConnectionLostError, HostError
from clusterctl.hosts.ssh.streams import WindowSize
from tests.unit.support import inventory

HERE = {"nodes": [{"name": "gpu1", "host": "localhost"}]}


@pytest.fixture
def host() -> Iterator[Host]:
    with Hosts(inventory(HERE)) as hosts:
        yield hosts.head


def gone(pid: int, within_s: float = 5) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_localhost_needs_no_ssh(host: Host) -> None:
    assert isinstance(host.connection, LocalConnection)
    assert host.connection.is_open
    host.close()
    assert not host.connection.is_open
    with pytest.raises(ConnectionLostError):
        host.connection.run(["true"])


def test_a_command_s_output_errors_and_exit_code(host: Host) -> None:
    done = host.connection.run(["sh", "-c", "cat; echo wrong >&2; exit 3"], stdin=b"in\n" * 50_000)
    assert (done.exit_code, done.stderr) == (3, b"wrong\n")
    assert done.stdout == b"in\n" * 50_000


def test_arguments_are_not_read_by_a_shell(host: Host) -> None:
    odd = "a b; $HOME 'x' \"y\" *"
    assert host.connection.run(["printf", "%s", odd]).stdout == odd.encode()


def test_what_a_signal_ended_has_a_shell_s_exit_code(host: Host) -> None:
    assert host.connection.run(["sh", "-c", "kill -KILL $$"]).exit_code == 137


def test_a_command_that_is_not_there(host: Host) -> None:
    with pytest.raises(ConnectionLostError, match="could not start `no-such-command`"):
        host.connection.run(["no-such-command"])


def test_a_deadline_ends_the_waiting_and_the_process(host: Host, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    began = time.monotonic()
    with pytest.raises(CommandTimeoutError, match="did not end within"):
        host.connection.run(["sh", "-c", f"echo $$ >{pid}; sleep 60"], timeout_s=0.5)
    assert time.monotonic() - began < 3
    assert gone(int(pid.read_text()))


def test_lines_come_as_they_are_written_and_a_failure_names_the_last(host: Host) -> None:
    lines = host.connection.lines(["sh", "-s"], stdin=b"echo one; sleep 0.3; echo two >&2; exit 4")
    assert next(lines) == "one"
    assert next(lines) == "two"
    with pytest.raises(HostError, match="exit code 4: two"):
        next(lines)


def test_a_conversation_ends_with_its_input(host: Host) -> None:
    script = 'echo ready; while read line; do echo "<$line>"; done'
    talk = host.connection.converse(["sh", "-c", script], stdin=b"hello\n")
    answers = talk.lines(5)
    assert next(answers) == "ready"
    assert next(answers) == "<hello>"
    talk.send(b"again\n")
    assert next(answers) == "<again>"
    talk.close()
    assert [line for line in answers if line is not None] == []


def test_output_that_nobody_takes_waits_in_the_process(host: Host) -> None:
    channel = LocalChannel(["sh", "-c", "head -c 20000000 /dev/zero; echo end >&2"])
    channel.settimeout(10)
    time.sleep(0.5)
    assert len(channel.in_buffer) < 2 * UNREAD_BYTES
    size = 0
    while data := channel.recv(1_000_000):
        size += len(data)
    assert size == 20_000_000
    assert channel.recv_stderr(100) == b"end\n"
    assert channel.status_event.wait(5)
    assert channel.exit_status == 0


def test_a_running_command_is_passed_on_and_its_pieces_have_a_deadline(host: Host) -> None:
    command = host.connection.start(["sh", "-c", "read a; echo got $a; sleep 60"])
    command.send(b"it\n")
    pieces = command.pieces(time.monotonic() + 1)
    assert next(pieces) == ("stdout", b"got it\n")
    with pytest.raises(CommandTimeoutError):
        next(pieces)
    command.close()


@pytest.fixture(params=[signal.SIG_DFL, signal.SIG_IGN], ids=["as usual", "under nohup"])
def hang_ups(request: pytest.FixtureRequest) -> Iterator[None]:
    """What becomes of SIGHUP; the tests may themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, request.param)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hang_ups")
def test_closing_the_connection_hangs_up_on_what_still_runs(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with Hosts(inventory(HERE)) as hosts:
        channel = hosts.head.connection.session(["sh", "-c", f"echo $$ >{pid}; exec sleep 60"])
        deadline = time.monotonic() + 5
        while not (pid.exists() and pid.read_text().strip()) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert channel.closed
    assert gone(int(pid.read_text()))


def test_a_shell_has_a_terminal_of_its_size(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = host.connection.shell("vt100", WindowSize(91, 33))
    shell.send(b"stty size; echo term=$TERM; exit 7\n")
    seen = b"".join(data for _, data in shell.pieces(time.monotonic() + 20))
    assert b"33 91" in seen
    assert b"term=vt100" in seen
    assert shell.exit_code() == 7


def test_connections_start_here(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        threading.Thread(target=lambda: server.accept()[0].sendall(b"hello"), daemon=True).start()
        stream = host.connection.connect_to("127.0.0.1", port, timeout_s=5)
        assert stream.recv(5) == b"hello"
        stream.close()
    with pytest.raises(ConnectionRefusedError):
        host.connection.connect_to("127.0.0.1", port, timeout_s=5)


def test_the_engine_is_asked_by_its_own_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho 'permission denied on the socket' >&2; exit 1\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with Hosts(inventory(HERE)) as hosts, pytest.raises(EngineError, match="permission denied on the socket"):
        hosts.head.engine.containers("demo")
