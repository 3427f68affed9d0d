"""`exec` and `shell` on the lab's nodes: real containers (that sleep), real streams, a real terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import resource
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from clusterctl.lab import lab as labs

from .conftest import Rehearsal, until

pytestmark = pytest.mark.lab

WHERE = pytest.mark.parametrize("where", [[], ["--host"]], ids=["container", "host"])
DEADLINE_S = 60


@pytest.fixture(scope="module")
def containers(rehearsal: Rehearsal) -> Iterator[Rehearsal]:
    """The lab with a container of the cluster's name and label on each node, in which nothing runs but `sleep`."""
    assert rehearsal.clusterctl("down").code == 0
    image = yaml.safe_load(rehearsal.clusterctl.inventory.read_text())["container"]["image"]
    name = f"{rehearsal.lab.name}-node"
    label = f"clusterctl.cluster={rehearsal.lab.name}"
    flags = ["--name", name, "--label", label, "--network", "host", "--entrypoint", "sleep"]
    for node in rehearsal.names():
        rehearsal.lab.exec(node, ["docker", "run", "-d", *flags, image, "infinity"])
    yield rehearsal
    rehearsal.power_on()
    for node in rehearsal.names():
        rehearsal.lab.exec(node, ["docker", "rm", "-f", name])


@pytest.fixture
def sleeping(containers: Rehearsal) -> Rehearsal:
    """The same, whatever the test before did to it."""
    containers.power_on()
    for node in containers.names():
        containers.lab.exec(node, ["docker", "start", f"{containers.lab.name}-node"])
    return containers


def execute(rehearsal: Rehearsal, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        rehearsal.clusterctl.argv("exec", *words), input=stdin, capture_output=True, check=False, timeout=DEADLINE_S
    )


def running(rehearsal: Rehearsal, node: str, words: str) -> bool:
    return any(words in line for line in rehearsal.processes(node))


@WHERE
def test_streams_stay_apart_and_the_exit_code_is_the_commands(sleeping: Rehearsal, where: list[str]) -> None:
    done = execute(sleeping, "node1", *where, "--", "sh", "-c", 'printf "a b\\0\\377"; echo err >&2; exit 37')
    assert (done.returncode, done.stdout, done.stderr) == (37, b"a b\0\xff", b"err\n")


@WHERE
def test_bytes_go_in_and_out_untouched(sleeping: Rehearsal, where: list[str]) -> None:
    content = bytes(range(256)) * 40_000
    done = execute(sleeping, "node1", *where, "--", "cat", stdin=content)
    assert done.returncode == 0
    assert done.stdout == content
    assert execute(sleeping, "node1", *where, "--", "cat").stdout == b""  # no stdin is an empty one


@WHERE
def test_a_command_that_does_not_read_its_stdin_ends(sleeping: Rehearsal, where: list[str]) -> None:
    assert execute(sleeping, "node1", *where, "--", "sh", "-c", "exit 3", stdin=bytes(20_000_000)).returncode == 3


@WHERE
def test_a_flood_neither_stalls_nor_fills_the_memory(sleeping: Rehearsal, where: list[str]) -> None:
    flood = "head -c 200000000 /dev/zero & head -c 50000000 /dev/zero >&2; wait"
    process = subprocess.Popen(
        sleeping.clusterctl.argv("exec", "node1", *where, "--", "sh", "-c", flood),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    # Less than the flood, with room for Python and its libraries.
    resource.prlimit(process.pid, resource.RLIMIT_DATA, (192 << 20, 192 << 20))
    assert process.stdout is not None
    size = 0
    time.sleep(2)  # a reader that is slower than the command
    while data := process.stdout.read(1 << 20):
        size += len(data)
    assert process.wait(DEADLINE_S) == 0
    assert size == 200_000_000


@WHERE
def test_exit_codes_of_commands_that_cannot_run(sleeping: Rehearsal, where: list[str]) -> None:
    assert execute(sleeping, "node1", *where, "--", "no-such-command").returncode in (126, 127)
    assert execute(sleeping, "node1", *where, "--", "/etc/passwd").returncode == 126
    assert execute(sleeping, "node1", *where, "--", "sh", "-c", "kill -9 $$").returncode == 137


def test_without_a_container_it_says_what_is_there(sleeping: Rehearsal) -> None:
    name = f"{sleeping.lab.name}-node"
    sleeping.lab.exec("node1", ["docker", "rename", name, "aside"])
    try:
        ran = sleeping.clusterctl("exec", "node1", "--", "true")
        assert ran.code == 1
        assert f"Error: exec failed on 1 node:\n  node1: there is no container {name}" in ran.err
        assert sleeping.clusterctl("exec", "node1", "--host", "--", "hostname").out == "node1\n"
    finally:
        sleeping.lab.exec("node1", ["docker", "rename", "aside", name])


def test_a_container_that_does_not_run(sleeping: Rehearsal) -> None:
    sleeping.lab.exec("node1", ["docker", "kill", f"{sleeping.lab.name}-node"])
    ran = sleeping.clusterctl("exec", "node1", "--", "true")
    assert ran.code == 1
    assert "does not run: exited, exit code 137" in ran.err


def test_all_nodes_with_their_names(sleeping: Rehearsal) -> None:
    ran = sleeping.clusterctl("exec", "--all", "--", "sh", "-c", "echo; hostname; echo err >&2; printf rest")
    assert ran.code == 0
    assert sorted(ran.out.splitlines()) == [
        "node1 | ", "node1 | node1", "node1 | rest", "node2 | ", "node2 | node2", "node2 | rest",
    ]  # fmt: skip
    assert sorted(ran.err.splitlines()) == ["node1 | err", "node2 | err"]
    named = sleeping.clusterctl("exec", "node1", "node2", "--host", "--", "hostname")
    assert sorted(named.out.splitlines()) == ["node1 | node1", "node2 | node2"]


def test_failures_are_listed_each_with_its_node(sleeping: Rehearsal) -> None:
    labs.power_off(sleeping.lab, "node2")
    ran = sleeping.clusterctl("exec", "--all", "--", "sh", "-c", "echo here; exit 5")
    assert ran.code == 1
    assert ran.out == "node1 | here\n"
    assert "Error: exec failed on 2 nodes:\n  node1: exit code 5\n  node2: " in ran.err
    assert str(sleeping.lab.address("node2")) in ran.err
    # A node that is not asked for is not waited for.
    assert sleeping.clusterctl("exec", "node1", "--", "hostname").seconds < 8


@WHERE
@pytest.mark.parametrize("nodes", [["node1"], ["--all"]], ids=["one", "all"])
def test_ctrl_c_ends_the_command_and_what_it_started(sleeping: Rehearsal, where: list[str], nodes: list[str]) -> None:
    process = sleeping.clusterctl.started("exec", *nodes, *where, "--", "sh", "-c", "sleep 1234 & sleep 1235")
    until(lambda: running(sleeping, "node1", "sleep 1235"), "it starts")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    for node in sleeping.names():
        assert not running(sleeping, node, "sleep 123")
        assert running(sleeping, node, "sleep infinity")


@WHERE
def test_the_time_out_ends_it(sleeping: Rehearsal, where: list[str]) -> None:
    ran = sleeping.clusterctl("exec", "node1", "-T", "1", *where, "--", "sleep", "1236")
    assert ran.code == 1
    assert "`sleep` did not end within 1 s, and was ended" in ran.err
    assert not running(sleeping, "node1", "sleep 1236")


@WHERE
def test_a_reader_that_goes_away_ends_it_without_a_word(sleeping: Rehearsal, where: list[str]) -> None:
    process = subprocess.Popen(
        sleeping.clusterctl.argv("exec", "node1", *where, "--", "yes"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(DEADLINE_S) == 0
    assert "yes" not in sleeping.processes("node1")


class Screen:
    """A terminal with `clusterctl shell` in it, and the person before it."""

    def __init__(self, argv: list[str]) -> None:
        self.seen = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(argv[0], argv)  # noqa: S606 - no shell is wanted
        self.resize(33, 101)
        self.before = termios.tcgetattr(self.fd)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def types(self, text: bytes) -> None:
        self.seen = b""
        os.write(self.fd, text)

    def shows(self, words: bytes) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while words not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.fd], [], [], 0.5)[0]:
                self.seen += os.read(self.fd, 65536)

    def restored(self) -> bool:
        now: list[Any] = termios.tcgetattr(self.fd)
        return bool(now[:4] == self.before[:4])

    def ends_with(self) -> int:
        """Its exit code, once it has ended; what it shows until then is read, or it could not end."""
        deadline = time.monotonic() + DEADLINE_S
        while (ended := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.fd], [], [], 0.2)[0]:
                with contextlib.suppress(OSError):
                    self.seen += os.read(self.fd, 65536)
        return os.waitstatus_to_exitcode(ended[1])


@WHERE
def test_a_shell_is_a_terminal_of_this_size_and_keys_go_to_it(sleeping: Rehearsal, where: list[str]) -> None:
    screen = Screen(sleeping.clusterctl.argv("shell", *where, "node1"))
    screen.shows(b"# ")
    screen.types(b"stty size; echo $TERM-$((6*7))\n")
    screen.shows(b"33 101")
    screen.shows(f"{os.environ.get('TERM', 'dumb')}-42".encode())
    screen.resize(44, 122)
    time.sleep(1)
    screen.types(b"stty size\n")
    screen.shows(b"44 122")
    screen.types(b"sleep 1237\n")
    until(lambda: running(sleeping, "node1", "sleep 1237"), "it starts")
    screen.types(b"\x03")
    until(lambda: not running(sleeping, "node1", "sleep 1237"), "Ctrl-C goes to the node")
    screen.types(b"exit 9\n")
    assert screen.ends_with() == 9
    assert screen.restored()


@WHERE
def test_the_terminal_is_restored_when_the_shell_is_cut_off(sleeping: Rehearsal, where: list[str]) -> None:
    screen = Screen(sleeping.clusterctl.argv("shell", *where, "node1"))
    screen.shows(b"# ")
    assert not screen.restored()
    screen.types(b"sleep 1238\n")
    until(lambda: running(sleeping, "node1", "sleep 1238"), "it starts")
    os.kill(screen.pid, signal.SIGTERM)
    assert screen.ends_with() == 130
    assert screen.restored()
    until(lambda: not running(sleeping, "node1", "sleep 1238"), "what ran in the shell ends with it")


def test_a_shell_in_a_container_that_is_killed(sleeping: Rehearsal) -> None:
    screen = Screen(sleeping.clusterctl.argv("shell", "node1"))
    screen.shows(b"# ")
    sleeping.lab.exec("node1", ["docker", "kill", f"{sleeping.lab.name}-node"])
    assert screen.ends_with() != 0
    assert screen.restored()
