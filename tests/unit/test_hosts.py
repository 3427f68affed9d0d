"""The connections of one run: every node is reached or named as unreachable, and what was lost can be found again."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from clusterctl.errors import ClusterctlError
from clusterctl.hosts.host import Hosts, each
from clusterctl.hosts.ssh.connection import SshConnection
from clusterctl.hosts.ssh.errors import ConnectError, ConnectionLostError, HostKeyError
from clusterctl.inventory.model import Inventory
from tests.unit.sshd import SSHD, Sshd, inventory_of, keygen
from tests.unit.support import inventory

needs_sshd = pytest.mark.skipif(SSHD is None, reason="no sshd on this machine (Debian: apt-get install openssh-server)")
pytestmark = pytest.mark.timeout(60)


class Pair:
    """gpu1 and gpu2: two real sshd, which can be lost and come back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = folder / "user_key"
        keygen(self.key)
        self.gpu1 = Sshd(folder / "gpu1", self.key)
        self.gpu2 = Sshd(folder / "gpu2", self.key)

    def inventory(self, *, port2: int | None = None, connect_s: float = 10) -> Inventory:
        known = self.gpu1.known + self.gpu2.known
        ports = {"gpu1": self.gpu1.port, "gpu2": port2 or self.gpu2.port}
        return inventory_of(self.folder, self.key, known, ports, {"connect_s": connect_s, "command_s": 20})


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    made = Pair(tmp_path)
    yield made
    made.gpu1.kill()
    made.gpu2.kill()


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A machine that takes connections and then says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def seen(hosts: Hosts) -> tuple[list[str], list[str]]:
    """Who is reached and who is not."""
    return list(hosts.connected), list(hosts.unreachable)


def test_a_node_that_hangs_up_right_after_the_login_is_unreachable_and_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def open_one(ssh: SshConnection) -> None:
        if ssh.node == "gpu2":
            raise ConnectionLostError(ssh.node, "the SSH connection is closed", hint="look at it")

    monkeypatch.setattr(SshConnection, "open", open_one)
    with Hosts(inventory()) as hosts:
        assert seen(hosts) == (["gpu1"], ["gpu2"])
        error = hosts.unreachable["gpu2"]
        assert (type(error), error.message, error.hint) == (ConnectError, "the SSH connection is closed", "look at it")
        with pytest.raises(ConnectError, match="is closed"):
            hosts.one("gpu2")


def test_whatever_else_is_wrong_with_a_connection_the_node_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(ssh: SshConnection) -> None:
        if ssh.node == "gpu1":
            raise ClusterctlError("broken", hint="mend it")
        raise HostKeyError(ssh.node, "unknown", hint="compare")

    monkeypatch.setattr(SshConnection, "open", fail)
    with Hosts(inventory()) as hosts:
        assert [(type(e), e.node, e.message, e.hint) for e in hosts.unreachable.values()] == [
            (ConnectError, "gpu1", "broken", "mend it"),
            (HostKeyError, "gpu2", "unknown", "compare"),
        ]


def test_an_error_of_no_node_becomes_the_nodes_with_its_hint() -> None:
    def fail(_: object) -> None:
        raise ClusterctlError("broken", hint="mend it")

    outcomes = each({"gpu1": object()}, fail)  # type: ignore[dict-item]
    error = outcomes.errors["gpu1"]
    assert (error.node, error.message, error.hint) == ("gpu1", "broken", "mend it")


@needs_sshd
def test_a_node_that_was_lost_is_found_again(pair: Pair) -> None:
    with Hosts(pair.inventory()) as hosts:
        kept = hosts.connected["gpu2"]
        pair.gpu1.kill()
        deadline = time.monotonic() + 10
        while hosts.connected["gpu1"].connection.is_open and time.monotonic() < deadline:
            time.sleep(0.05)
        hosts.reconnect()
        assert seen(hosts) == (["gpu2"], ["gpu1"])
        pair.gpu1.start()
        hosts.reconnect()
        assert seen(hosts) == (["gpu1", "gpu2"], []), "in inventory order"
        assert hosts.connected["gpu1"].connection.run(["echo", "back"]).stdout == b"back\n"
        assert hosts.connected["gpu2"] is kept, "a connection that stands is left alone"
        assert kept.connection.is_open


@needs_sshd
def test_a_node_that_was_off_at_the_beginning_is_found_once_it_is_on(pair: Pair) -> None:
    pair.gpu2.kill()
    with Hosts(pair.inventory()) as hosts:
        assert seen(hosts) == (["gpu1"], ["gpu2"])
        pair.gpu2.start()
        hosts.reconnect()
        assert seen(hosts) == (["gpu1", "gpu2"], [])
        assert hosts.connected["gpu2"].connection.run(["true"]).exit_code == 0


@needs_sshd
def test_only_the_nodes_of_this_run_are_connected_to_again(pair: Pair) -> None:
    with Hosts(pair.inventory(), only={"gpu1"}) as hosts:
        hosts.reconnect()
        assert seen(hosts) == (["gpu1"], [])


@needs_sshd
def test_a_node_that_is_said_to_be_silent_gets_a_new_connection(pair: Pair) -> None:
    with Hosts(pair.inventory()) as hosts:
        old = dict(hosts.connected)
        hosts.reconnect(["gpu1"])
        assert seen(hosts) == (["gpu1", "gpu2"], [])
        assert not old["gpu1"].connection.is_open
        assert hosts.connected["gpu1"].connection.is_open
        assert hosts.connected["gpu2"] is old["gpu2"]


@needs_sshd
def test_a_node_that_stays_away_takes_no_longer_than_the_connect_time_out(pair: Pair, silent: socket.socket) -> None:
    with Hosts(pair.inventory(port2=silent.getsockname()[1], connect_s=1)) as hosts:
        began = time.monotonic()
        hosts.reconnect()
        assert time.monotonic() - began < 4
        assert seen(hosts) == (["gpu1"], ["gpu2"])


@needs_sshd
def test_an_interrupt_does_not_wait_for_a_node_that_stays_away(
    pair: Pair, silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    monkeypatch.setattr(Hosts, "__enter__", lambda hosts: hosts)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1))
    began = time.monotonic()
    try:
        with (
            pytest.raises(KeyboardInterrupt),
            Hosts(pair.inventory(port2=silent.getsockname()[1], connect_s=30)) as hosts,
        ):
            timer.start()
            hosts.reconnect()
        assert time.monotonic() - began < 5
    finally:
        timer.cancel()
        signal.signal(signal.SIGUSR1, before)
        silent.close()  # the login that still waits ends
