"""What is said when sshd ends a connection, and who gets a new one: whoever only reads, once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import paramiko
import pytest

from clusterctl.hosts.engine.engine import EngineVersion
from clusterctl.hosts.host import Host, Hosts
from clusterctl.hosts.ssh.connection import SshConnection
from clusterctl.hosts.ssh.errors import ConnectionLostError
from tests.unit.sshd import ANSWER, SSHD, OneNode, Sshd, keygen, over_ssh

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(SSHD is None, reason="no sshd on this machine (Debian: apt-get install openssh-server)"),
]
REASON = "sshd closed the SSH connection: ieof packet referred to nonexistent channel 999"
WAITS_ONCE = "[ -e {mark} ] && exit 7; echo x >>{mark}; exec sleep 30"
"""A command that waits to be cut off, and the second time ends at once."""


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OneNode]:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    made = OneNode(tmp_path)
    yield made
    made.sshd.kill()


@pytest.fixture
def hosts(node: OneNode) -> Iterator[Hosts]:
    with node.hosts() as connected:
        yield connected


@pytest.fixture
def host(hosts: Hosts) -> Host:
    return hosts.one("gpu1")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file with a line for each time that a command ran."""
    return tmp_path / "mark"


def is_there(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists()


def hang_up(ssh: SshConnection) -> None:
    """Have sshd end the connection, by the very message that it does not forgive."""
    end(ssh.transport)


def end(transport: Any) -> None:
    message = paramiko.Message()
    message.add_byte(bytes([96]))  # SSH_MSG_CHANNEL_EOF
    message.add_int(999)
    transport._send_message(message)
    transport.join(10)
    assert not transport.is_active()


def during(mark: Path, act: Callable[[], object]) -> threading.Thread:
    """Do it as soon as the command runs."""

    def wait() -> None:
        is_there(mark)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_why_sshd_ended_the_connection_is_said_in_its_own_words(host: Host, mark: Path) -> None:
    thread = during(mark, lambda: hang_up(over_ssh(host)))
    with pytest.raises(ConnectionLostError) as caught:
        over_ssh(host).run(["sh", "-c", WAITS_ONCE.format(mark=mark)])
    thread.join()
    assert caught.value.message == f"{over_ssh(host).target}: `sh` ended without an exit code: {REASON}"
    assert "journalctl -u ssh" in str(caught.value.hint)
    with pytest.raises(ConnectionLostError, match="closed the SSH connection: ieof"):
        over_ssh(host).run(["true"])
    assert mark.read_text() == "x\n", "what may change something is not done twice"


def test_a_connection_that_ends_without_a_word_is_said_to(node: OneNode, host: Host, mark: Path) -> None:
    thread = during(mark, node.sshd.kill)
    with pytest.raises(ConnectionLostError, match="closed by the node without giving a reason"):
        over_ssh(host).run(["sh", "-c", WAITS_ONCE.format(mark=mark)])
    thread.join()


def test_the_engine_is_not_blamed_for_a_lost_connection(node: OneNode, host: Host, mark: Path) -> None:
    node.docker(ANSWER)
    host.engine.version()
    node.docker(WAITS_ONCE.format(mark=mark))
    thread = during(mark, lambda: hang_up(over_ssh(host)))
    with pytest.raises(ConnectionLostError) as caught:
        host.engine.start("abc")
    thread.join()
    assert caught.value.message.endswith(f"lost while the engine was asked to start container abc: {REASON}")
    assert mark.read_text() == "x\n", "what changes something is not asked for twice"


def test_a_question_to_the_engine_is_asked_again(node: OneNode, host: Host, mark: Path) -> None:
    node.docker(f"[ -e {mark} ] || {{ echo x >>{mark}; exec sleep 30; }}\n{ANSWER}")
    thread = during(mark, lambda: hang_up(over_ssh(host)))
    assert host.engine.version() == EngineVersion("1.41", {"ApiVersion": "1.41"})
    thread.join()
    assert node.logins() == 2


def test_a_command_that_only_reads_is_run_again(node: OneNode, host: Host, mark: Path) -> None:
    thread = during(mark, lambda: hang_up(over_ssh(host)))
    assert over_ssh(host).run(["sh", "-c", WAITS_ONCE.format(mark=mark)], read_only=True).exit_code == 7
    thread.join()
    assert node.logins() == 2
    assert over_ssh(host).run(["echo", "back"]).stdout == b"back\n"


def test_it_is_run_again_once(node: OneNode, host: Host, mark: Path) -> None:
    def hang_up_twice() -> None:
        hang_up(over_ssh(host))
        deadline = time.monotonic() + 10
        while mark.read_text() != "x\nx\n" and time.monotonic() < deadline:
            time.sleep(0.01)
        hang_up(over_ssh(host))

    thread = during(mark, hang_up_twice)
    with pytest.raises(ConnectionLostError, match="nonexistent channel"):
        over_ssh(host).run(["sh", "-c", f"echo x >>{mark}; exec sleep 30"], read_only=True)
    thread.join()
    assert mark.read_text() == "x\nx\n"
    assert node.logins() == 2


def test_ten_that_lost_the_same_connection_open_one_new_one(node: OneNode, host: Host, tmp_path: Path) -> None:
    marks = [tmp_path / f"mark{number}" for number in range(10)]
    with ThreadPoolExecutor(10) as pool:
        runs = [
            pool.submit(over_ssh(host).run, ["sh", "-c", WAITS_ONCE.format(mark=mark)], read_only=True)
            for mark in marks
        ]
        for mark in marks:
            is_there(mark)
        hang_up(over_ssh(host))
        assert [run.result().exit_code for run in runs] == [7] * 10
    assert node.logins() == 2


def test_a_command_that_was_killed_is_not_run_again(node: OneNode, host: Host, mark: Path) -> None:
    with pytest.raises(ConnectionLostError, match=r"without an exit code$"):
        over_ssh(host).run(["sh", "-c", f"echo x >>{mark}; kill -9 $$"], read_only=True)
    assert mark.read_text() == "x\n"
    assert node.logins() == 1


def test_a_node_that_cannot_be_reached_again_is_lost_for_the_first_reason_and_tried_once(
    node: OneNode, host: Host, mark: Path
) -> None:
    thread = during(mark, node.sshd.kill)
    with pytest.raises(ConnectionLostError, match="without giving a reason"):
        over_ssh(host).run(["sh", "-c", WAITS_ONCE.format(mark=mark)], read_only=True)
    thread.join()
    node.sshd.start()
    with pytest.raises(ConnectionLostError):
        over_ssh(host).run(["true"], read_only=True)
    assert node.logins() == 1
    assert not over_ssh(host).is_open


@pytest.mark.parametrize("accept", [False, True])
@pytest.mark.parametrize("known", ["another key", "none"])
def test_a_new_connection_is_as_strict_about_host_keys(
    node: OneNode, tmp_path: Path, mark: Path, known: str, accept: bool
) -> None:
    other = keygen(tmp_path / "other")
    with node.hosts(accept=accept) as hosts:
        ssh = over_ssh(hosts.one("gpu1"))
        line = f"{node.sshd.known.split()[0]} {other}\n" if known == "another key" else ""
        (tmp_path / "known_hosts").write_text(line, encoding="ascii")
        thread = during(mark, lambda: hang_up(ssh))
        with pytest.raises(ConnectionLostError, match="nonexistent channel"):
            ssh.run(["sh", "-c", WAITS_ONCE.format(mark=mark)], read_only=True)
        thread.join()
        assert not ssh.is_open
    assert (tmp_path / "known_hosts").read_text(encoding="ascii") == line, "nothing is pinned"
    assert node.logins() == 1


def test_what_was_closed_or_given_up_here_stays_closed(node: OneNode, hosts: Hosts, host: Host, mark: Path) -> None:
    thread = during(mark, lambda: hosts.give_up("gpu1", ConnectionLostError("gpu1", "enough")))
    with pytest.raises(ConnectionLostError, match="the SSH connection is closed"):
        over_ssh(host).run(["sh", "-c", WAITS_ONCE.format(mark=mark)], read_only=True)
    thread.join()
    with pytest.raises(ConnectionLostError, match="the SSH connection is closed"):
        over_ssh(host).run(["true"], read_only=True)
    assert node.logins() == 1


def test_what_is_closed_while_it_is_opened_again_stays_closed(
    host: Host, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_hops = over_ssh(host)._open_hops

    def closed_meanwhile() -> None:
        over_ssh(host).close()
        open_hops()

    monkeypatch.setattr(over_ssh(host), "_open_hops", closed_meanwhile)
    thread = during(mark, lambda: hang_up(over_ssh(host)))
    with pytest.raises(ConnectionLostError):
        over_ssh(host).run(["sh", "-c", WAITS_ONCE.format(mark=mark)], read_only=True)
    thread.join()
    assert not over_ssh(host).is_open


def test_a_connection_over_which_a_lock_was_held_is_not_opened_again(node: OneNode, host: Host) -> None:
    conversation = over_ssh(host).converse(["cat"], stdin=b"hello\n")
    assert next(conversation.lines(10)) == "hello"
    hang_up(over_ssh(host))
    assert list(conversation.lines(10)) == []
    with pytest.raises(ConnectionLostError, match="nonexistent channel"):
        over_ssh(host).run(["true"], read_only=True)
    assert node.logins() == 1


@pytest.mark.parametrize("lost", ["node", "jump host"])
def test_a_node_behind_a_jump_host_is_reached_again_whichever_of_the_two_hung_up(
    node: OneNode, tmp_path: Path, lost: str
) -> None:
    jump = Sshd(tmp_path / "jump", node.key)
    try:
        with node.hosts(jump=jump) as hosts:
            ssh = over_ssh(hosts.one("gpu1"))
            end(ssh.transport if lost == "node" else ssh._connection.gateway.transport)
            assert ssh.run(["echo", "again"], read_only=True).stdout == b"again\n"
    finally:
        jump.kill()
    assert node.logins() == 2
