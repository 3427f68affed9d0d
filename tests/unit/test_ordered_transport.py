"""What leaves a channel, and in which order, over a real sshd: nothing follows our CLOSE, whoever wins the race."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import paramiko
import pytest

from clusterctl.hosts.engine.docker import DockerEngine
from clusterctl.hosts.ssh.connection import SshConnection
from tests.unit.sshd import ANSWER, SSHD, OneNode, over_ssh

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(SSHD is None, reason="no sshd on this machine (Debian: apt-get install openssh-server)"),
]
PATIENCE_S = 5
"""Far above what a step takes, and below the 30 s that paramiko waits for new keys."""
EOF, DATA, WINDOW_ADJUST, CLOSE, REQUEST = 96, 94, 93, 97, 98  # RFC 4250, 4.1.2
Sent = list[tuple[int, int]]
"""Messages of channels: kind, and the channel's number on the other side."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneNode]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        made = OneNode(tmp_path_factory.mktemp("ordered"))
        yield made
        made.sshd.kill()


@pytest.fixture
def ssh(node: OneNode) -> Iterator[SshConnection]:
    with node.hosts() as hosts:
        yield over_ssh(hosts.one("gpu1"))


def transport_of(ssh: SshConnection) -> Any:
    """paramiko's transport, of which private parts are used here."""
    return ssh._transport


@pytest.fixture
def sent(ssh: SshConnection, monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Everything that is written to the wire for channels, in order."""
    seen: Sent = []
    packetizer = transport_of(ssh).packetizer
    write = packetizer.send_message

    def note(message: paramiko.Message) -> None:
        content = message.asbytes()
        if content[0] in (EOF, DATA, WINDOW_ADJUST, CLOSE, REQUEST):
            seen.append((content[0], int.from_bytes(content[1:5], "big")))
        write(message)

    monkeypatch.setattr(packetizer, "send_message", note)
    return seen


class Held:
    """Stands before what a channel sends through, and holds back what a thread other than paramiko's sends."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self.behind: Any = channel.transport
        self.made, self.released = threading.Event(), threading.Event()
        channel.transport = self  # type: ignore[assignment]

    def _send_user_message(self, message: paramiko.Message) -> None:
        if not isinstance(threading.current_thread(), paramiko.Transport):
            self.made.set()
            assert self.released.wait(PATIENCE_S)
        self.behind._send_user_message(message)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


class Race:
    """A message of a channel that has been made and not been sent when the server closes the channel."""

    def __init__(self, ssh: SshConnection, act: Callable[[paramiko.Channel], object], *, output: int = 0) -> None:
        self._ssh = ssh
        self.channel = ssh.session(["sh", "-c", f"echo $$; head -c {output} /dev/zero; exec sleep 60"])
        self._pid = self._first_line()
        deadline = time.monotonic() + PATIENCE_S
        while len(self.channel.in_buffer) < output and time.monotonic() < deadline:
            time.sleep(0.01)
        self.number = self.channel.remote_chanid
        self._held = Held(self.channel)
        self._thread = threading.Thread(target=self._act, args=(act,))
        self._thread.start()
        assert self._held.made.wait(PATIENCE_S)

    def server_closes(self) -> None:
        """Until it has, has our answer, and has freed the number: it answers one message after the other."""
        os.kill(self._pid, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE_S
        while not self.channel.closed and time.monotonic() < deadline:
            time.sleep(0.01)
        assert self.channel.closed
        transport_of(self._ssh).global_request("are-you-there@clusterctl", wait=True)

    def release(self) -> None:
        """Let the late message go, and wait until the server has seen it or hung up."""
        self._held.released.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        transport_of(self._ssh).global_request("are-you-there@clusterctl", wait=True)

    def _first_line(self) -> int:
        line = b""
        while not line.endswith(b"\n"):
            line += self.channel.recv(1)
        return int(line)

    def _act(self, act: Callable[[paramiko.Channel], object]) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            act(self.channel)


LATE: dict[str, tuple[int, Callable[[paramiko.Channel], object], int]] = {
    "end of input": (EOF, lambda channel: channel.shutdown_write(), 0),
    "data": (DATA, lambda channel: channel.send(b"late"), 0),
    "resize": (REQUEST, lambda channel: channel.resize_pty(80, 24), 0),
    "window": (WINDOW_ADJUST, lambda channel: channel.recv(1_000_000), 1_000_000),
}
"""What is sent late: its kind, how it is made, and how much output it takes for that."""


@pytest.mark.parametrize("what", LATE)
def test_a_message_that_was_made_before_the_servers_close_does_not_follow_ours(
    ssh: SshConnection, sent: Sent, what: str
) -> None:
    kind, act, output = LATE[what]
    race = Race(ssh, act, output=output)
    race.server_closes()
    closed = sent.index((CLOSE, race.number))
    race.release()
    assert sent[closed + 1 :] == [], f"{kind} would follow CLOSE"
    assert ssh.is_open, "sshd has not hung up"
    assert ssh.run(["echo", "still"]).stdout == b"still\n"


@pytest.mark.parametrize("what", ["end of input", "data"])
def test_a_late_message_does_not_reach_the_channel_that_has_its_number_now(ssh: SshConnection, what: str) -> None:
    race = Race(ssh, LATE[what][1])
    race.server_closes()
    cat = ssh.session(["cat"])
    assert cat.remote_chanid == race.number, "OpenSSH gives a freed number to the next channel"
    race.release()
    cat.sendall(b"mine")
    cat.shutdown_write()
    assert cat.makefile("rb").read() == b"mine"
    cat.close()


def test_the_first_who_closes_wins_and_the_other_sends_nothing(ssh: SshConnection, sent: Sent) -> None:
    race = Race(ssh, lambda channel: channel.close())
    race.server_closes()
    race.release()
    assert sent.count((CLOSE, race.number)) == 1
    assert ssh.run(["true"]).exit_code == 0


def test_every_message_of_a_channel_passes_its_door(ssh: SshConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a new paramiko sends in another way than the one that is watched over (see ordered_transport)."""
    passed: list[int] = []
    transport = transport_of(ssh)
    send = transport._send_user_message

    def note(message: Any) -> None:
        assert hasattr(message, "door") or message.asbytes()[0] < WINDOW_ADJUST
        passed.append(message.asbytes()[0])
        send(message)

    monkeypatch.setattr(transport, "_send_user_message", note)
    channel = ssh.session(["sh", "-c", "head -c 1000000 /dev/zero; cat"])
    channel.sendall(b"some")
    channel.shutdown_write()
    while channel.recv(100_000):
        pass
    deadline = time.monotonic() + PATIENCE_S
    while CLOSE not in passed and time.monotonic() < deadline:  # paramiko's thread answers the server's
        time.sleep(0.01)
    assert {EOF, DATA, WINDOW_ADJUST, CLOSE, REQUEST} <= set(passed)


# Exchanging keys


class Reading:
    """Holds paramiko's thread before it reads the next message."""

    def __init__(self, transport: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits, self.released = threading.Event(), threading.Event()
        read = transport.packetizer.read_message

        def held() -> object:
            self.waits.set()
            assert self.released.wait(PATIENCE_S)
            return read()

        monkeypatch.setattr(transport.packetizer, "read_message", held)


def exchanges_keys(transport: Any) -> None:
    """Returns when the new keys are in use; raises when they are not in time."""
    thread = threading.Thread(target=transport.renegotiate_keys, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive(), "paramiko's thread waits for what only it can receive"


def test_keys_are_exchanged_while_commands_run(ssh: SshConnection) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(ssh.run, ["sh", "-c", "cat; exit 3"], stdin=b"x" * 50_000) for _ in range(20)]
        for _ in range(2):
            exchanges_keys(transport_of(ssh))
        assert {(run.result().exit_code, len(run.result().stdout)) for run in runs} == {(3, 50_000)}
    assert ssh.is_open


def test_the_servers_close_that_was_on_its_way_when_keys_are_exchanged(
    ssh: SshConnection, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = ssh.session(["sh", "-c", "echo $$; exec sleep 60"])
    pid = int(channel.recv(100))
    transport = transport_of(ssh)
    reading = Reading(transport, monkeypatch)
    os.kill(pid, signal.SIGKILL)
    assert reading.waits.wait(PATIENCE_S)  # one message of its end has come; its CLOSE is behind that
    time.sleep(0.2)
    transport._send_kex_init()
    assert not transport.clear_to_send.is_set()
    reading.released.set()
    began = time.monotonic()
    assert ssh.run(["echo", "on"]).stdout == b"on\n"
    assert time.monotonic() - began < PATIENCE_S
    assert sent.index((CLOSE, channel.remote_chanid)) >= 0, "what was put off is sent"


def test_a_keepalive_that_is_due_while_keys_are_exchanged_is_sent_afterwards(
    ssh: SshConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = transport_of(ssh)
    asked: list[bytes] = []
    negotiate, write = transport._handler_table[paramiko.common.MSG_KEXINIT], transport.packetizer.send_message

    def at_the_worst_time(message: paramiko.Message) -> None:
        negotiate(message)
        transport.global_request("keepalive@lag.net", wait=False)
        assert asked == []

    def note(message: paramiko.Message) -> None:
        if message.asbytes()[0] == paramiko.common.MSG_GLOBAL_REQUEST:
            asked.append(message.asbytes())
        write(message)

    monkeypatch.setitem(transport._handler_table, paramiko.common.MSG_KEXINIT, at_the_worst_time)
    monkeypatch.setattr(transport.packetizer, "send_message", note)
    exchanges_keys(transport)
    assert ssh.run(["true"]).exit_code == 0
    assert len(asked) == 1


# Many at once


def test_thousands_of_short_commands_over_one_connection(node: OneNode, ssh: SshConnection) -> None:
    """paramiko's own transport lost the connection about once in a hundred commands that end by themselves."""
    node.docker(ANSWER)
    before = node.logins()
    engine = DockerEngine(ssh, sudo=False, timeout_s=20)
    began = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        commands, versions = [], []
        for _ in range(500):
            commands += [pool.submit(ssh.run, ["sh", "-c", "exit 3"]) for _ in range(4)]
            versions.append(pool.submit(engine.version))
        assert {run.result().exit_code for run in commands} == {3}
        assert {version.result().api for version in versions} == {"1.41"}
    print(f"2,000 commands and 500 calls of the engine: {time.monotonic() - began:.1f} s")
    engine.close()
    assert node.logins() == before, "one connection served all"
    assert "Disconnecting" not in node.log()
