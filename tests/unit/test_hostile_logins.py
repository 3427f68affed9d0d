"""Commands over logins that print, ask, refuse, or have another shell: a real sshd, and the shells themselves."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterctl.hosts.engine.docker import DockerEngine
from clusterctl.hosts.ssh.connection import SshConnection
from clusterctl.hosts.ssh.errors import CommandTimeoutError, HostError
from clusterctl.hosts.ssh.framing import KEPT_BYTES, Frame, shown
from clusterctl.inventory.model import Node, SshDefaults, Timeouts
from tests.unit.sshd import SSHD, Sshd, keygen

pytestmark = [
    pytest.mark.skipif(SSHD is None, reason="no sshd on this machine (Debian: apt-get install openssh-server)"),
    pytest.mark.timeout(60),
]

HARD_WORDS = [
    "$HOME `id` !! !x",
    "it's",
    'a "b"',
    "back\\slash \\n \\\\",
    "line\nfeed\n",
    "",
    "=ls",
    "~",
    "%self",
    "é*?[a]",
]
"""What one shell or another reads as something else."""

ANSWER = r"""while read -r line && [ "$line" != "$(printf '\r')" ]; do :; done
printf 'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 21\r\n\r\n{"ApiVersion":"1.41"}'"""

Login = Callable[..., SshConnection]


@pytest.fixture
def login(tmp_path: Path) -> Iterator[Login]:
    """A connection to a login whose shell runs `before` first: what sshd hands to a shell goes through this one."""
    opened: list[SshConnection] = []
    servers: list[Sshd] = []

    def made(before: str = "", shell: str = "/bin/bash -c", command_s: float = 20, **options: str) -> SshConnection:
        # sshd runs `$SHELL -c COMMAND`; a forced command sees COMMAND in a variable, and can be any other shell.
        forced = tmp_path / "login"
        forced.write_text(f'#!/bin/bash\n{before}\nexec {shell} "$SSH_ORIGINAL_COMMAND"\n', encoding="utf-8")
        forced.chmod(0o755)
        keygen(tmp_path / "key")
        binaries = tmp_path / "bin"
        binaries.mkdir()
        (binaries / "docker").write_text(f"#!/bin/sh\n{ANSWER}\n", encoding="ascii")
        (binaries / "docker").chmod(0o755)
        settings = {"ForceCommand": str(forced), "SetEnv": f"PATH={binaries}:/usr/bin:/bin", **options}
        servers.append(server := Sshd(tmp_path / "node", tmp_path / "key", **settings))
        (tmp_path / "known_hosts").write_text(server.known, encoding="ascii")
        (tmp_path / "ssh_config").touch()
        opened.append(
            connection := SshConnection(
                Node(name="gpu1", host="127.0.0.1", user=getpass.getuser(), port=server.port),
                SshDefaults(key=tmp_path / "key", known_hosts=tmp_path / "known_hosts", config=tmp_path / "ssh_config"),
                Timeouts(connect_s=10, command_s=command_s),
            )
        )
        connection.open()
        return connection

    yield made
    for connection in opened:
        connection.close()
    for server in servers:
        server.kill()


def whole(connection: SshConnection) -> None:
    """Every way in which commands are run: to the end, as lines, in a conversation, as it comes; the engine's API."""
    done = connection.run(
        ["sh", "-c", 'cat; printf "%s|" "$@"; echo oops >&2; exit 3', "sh", *HARD_WORDS], stdin=b"in\0\n"
    )
    assert done.stdout == b"in\0\n" + "".join(f"{word}|" for word in HARD_WORDS).encode()
    assert (done.exit_code, done.stderr) == (3, b"oops\n")
    assert list(connection.lines(["sh", "-c", "echo a; echo b >&2"])) == ["a", "b"]
    talk = connection.converse(["sh", "-c", "while read -r l; do echo got $l; done"], stdin=b"one\n")
    assert next(line for line in talk.lines(5) if line) == "got one"
    talk.close()
    command = connection.start(["sh", "-c", "echo out; exec >&-; echo err >&2"])
    assert sorted(command.pieces()) == [("stderr", b"err\n"), ("stdout", b"out\n")]
    assert command.exit_code() == 0
    engine = DockerEngine(connection, sudo=False, timeout_s=20)
    assert engine.version is not None and engine._api._version == "1.41"
    engine.close()


NOISE = {
    "a line": 'echo "Agent pid 4242"',
    "on both streams": "echo hello; echo warning: setlocale >&2",
    "without an end of line": "printf 'Last login: never'",
    "colours": r"printf '\033[31mWelcome\033[0m to \033]0;title\007gpu1\n'",
    "a megabyte": "head -c 1000000 /dev/zero | tr '\\0' x",
    "a megabyte on stderr": "head -c 1000000 /dev/zero | tr '\\0' x >&2",
    "bytes that are no text": "printf '\\377\\376\\000'",
    "the command line itself": 'echo "running $SSH_ORIGINAL_COMMAND"; set -x',
    "an exit trap": "trap 'echo bye' EXIT",
}


@pytest.mark.parametrize("kind", NOISE)
def test_what_a_login_prints_is_no_part_of_an_answer(login: Login, kind: str) -> None:
    whole(login(NOISE[kind]))


@pytest.mark.parametrize(
    "shell", ["sh -c", "bash -c", "zsh -c", "fish -c", "tcsh -c", "busybox sh -c", "ksh -c", "mksh -c"]
)
def test_every_shell_runs_the_same_command(login: Login, shell: str) -> None:
    if shutil.which(shell.split(maxsplit=1)[0]) is None:
        pytest.skip(f"no {shell.split(maxsplit=1)[0]} on this machine (`make setup` installs it)")
    whole(login("echo noise", shell))


def test_what_was_printed_is_kept_to_be_quoted(login: Login) -> None:
    connection = login(r"printf '\033[31mAgent\033[0m pid 4242\n'")
    connection.run(["true"])
    assert shown(connection.login_prints) == '"Agent pid 4242"'


def test_what_is_quoted_has_an_end() -> None:
    assert len(shown(b"x" * KEPT_BYTES)) < 200
    assert shown(b" \n\t\x1b[0m ") == ""


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("echo 'This account is currently not available.'; exit 1", '; it printed: "This account is currently not'),
        ("exit 1", ", and printed nothing"),
        ("echo 'This account is for git only' >&2; exit 128", ", and printed nothing"),
    ],
)
def test_a_login_that_refuses_is_said_so(login: Login, before: str, said: str) -> None:
    with pytest.raises(HostError, match="the login ended without running `true`") as raised:
        login(before).run(["true"])
    assert said in raised.value.message
    assert "ForceCommand" in (raised.value.hint or "")


def test_a_login_that_asks_is_quoted(login: Login) -> None:
    started = time.monotonic()
    with pytest.raises(CommandTimeoutError, match='within 2 s; it printed: "Which project'):
        login("printf 'Which project? '; read -r answer", command_s=2).run(["true"])
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("sessions", ["1", "2"])
def test_few_sessions_are_enough(login: Login, sessions: str) -> None:
    connection = login(MaxSessions=sessions)
    talk = connection.converse(["sh", "-c", "while read -r l; do echo got $l; done"], stdin=b"one\n")  # a lock
    running = [connection.start(["sh", "-c", "read -r l; echo $l"]) for _ in range(3)]
    whole(connection)
    for number, command in enumerate(running):
        command.send(f"{number}\n".encode())
        assert b"".join(data for _, data in command.pieces()) == f"{number}\n".encode()
    talk.send(b"two\n")
    lines = (line for line in talk.lines(5) if line)
    assert [next(lines), next(lines)] == ["got one", "got two"]
    talk.close()


def test_no_session_at_all_is_said_so(login: Login) -> None:
    with pytest.raises(HostError, match="could not start `true`"):
        login(MaxSessions="0").run(["true"])


def test_nothing_is_left_on_the_node(login: Login, tmp_path: Path) -> None:
    """Neither by commands that ended, nor by those that were given up, nor by a connection that was closed."""
    connection = login("echo noise", MaxSessions="2")
    mark = str(tmp_path / "bin")  # in the environment of everything that this sshd starts
    whole(connection)
    given_up = connection.start(["cat"])
    given_up.close()
    connection.start(["cat"])
    connection.close()
    deadline = time.monotonic() + 10
    while (left := processes_with(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def processes_with(mark: str) -> list[str]:
    """Command lines of processes whose environment holds this."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_a_frame_is_told_from_its_command_line() -> None:
    """A login may print the command line; the mark must not be found in it."""
    frame = Frame()
    line = frame.command_line(["echo", "a'b"])
    printed = subprocess.run(["sh", "-c", line], capture_output=True, check=True, timeout=20).stdout
    mark = printed.removesuffix(b"a'b\n")
    assert mark and mark not in line.encode()
