"""The door to SSH against real sshd processes of this machine: what is refused, what is said, what comes back."""

from __future__ import annotations

import contextlib
import getpass
import http.server
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from clusterctl.errors import ClusterctlError
from clusterctl.hosts.http import client_over
from clusterctl.hosts.ssh.connection import SshConnection
from clusterctl.hosts.ssh.errors import CommandTimeoutError, ConnectError, ConnectionLostError, HostKeyError
from clusterctl.hosts.ssh.hops import Hop
from clusterctl.hosts.ssh.streams import SshCommand, WindowSize
from clusterctl.inventory.model import Node, SshDefaults, Timeouts
from tests.unit.sshd import SSHD, Sshd, free_port, keygen
from tests.unit.test_known_hosts import ECDSA

pytestmark = [
    pytest.mark.skipif(SSHD is None, reason="no sshd on this machine (Debian: apt-get install openssh-server)"),
    pytest.mark.timeout(60),
]


def fingerprint_of(path: Path) -> str:
    done = subprocess.run(["ssh-keygen", "-lf", str(path)], check=True, capture_output=True, text=True, timeout=20)
    return done.stdout.split()[1]


class Site:
    """Keys, two sshd (a node and a jump host) and a way to make connections to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = folder / "user_key"
        keygen(self.key)
        self.node = Sshd(folder / "node", self.key)
        self.jump = Sshd(folder / "jump", self.key)
        self.config = folder / "ssh_config"
        self.config.touch()

    def connection(
        self,
        *,
        known: str | None = None,
        known_hosts: Path | None = None,
        accept: bool = False,
        timeouts: Timeouts | None = None,
        **node: Any,
    ) -> SshConnection:
        file = known_hosts or self.folder / f"known_hosts-{time.monotonic_ns()}"
        if known_hosts is None:
            file.write_text(self.node.known if known is None else known, encoding="ascii")
        said = {"name": "gpu1", "host": "127.0.0.1", "user": getpass.getuser(), "port": self.node.port, **node}
        return SshConnection(
            Node(**said),
            SshDefaults(key=self.key, known_hosts=file, config=self.config),
            timeouts or Timeouts(connect_s=10, command_s=20),
            accept_new_host_keys=accept,
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        made = Site(tmp_path_factory.mktemp("ssh"))
        try:
            yield made
        finally:
            made.node.kill()
            made.jump.kill()


@pytest.fixture
def ssh(site: Site) -> Iterator[SshConnection]:
    connection = site.connection()
    connection.open()
    yield connection
    connection.close()


def refused(connection: SshConnection) -> ConnectError:
    try:
        with pytest.raises(ConnectError) as caught:
            connection.open()
    finally:
        connection.close()
    assert caught.value.node == "gpu1"
    assert caught.value.hint
    return caught.value


# Host keys


def test_an_unknown_host_key_is_refused_with_the_fingerprint_to_compare(site: Site) -> None:
    error = refused(site.connection(known=""))
    assert isinstance(error, HostKeyError)
    assert fingerprint_of(site.node.host_key) in error.message
    assert "--accept-new-host-keys" in str(error.hint)


def test_a_changed_host_key_is_refused_with_both_fingerprints_also_when_new_ones_are_accepted(site: Site) -> None:
    for accept in (False, True):
        other = f"[127.0.0.1]:{site.node.port} {site.jump.public}\n"
        error = refused(site.connection(known=other, accept=accept))
        assert isinstance(error, HostKeyError)
        assert fingerprint_of(site.node.host_key) in error.message
        assert fingerprint_of(site.jump.host_key) in error.message
        assert "ssh-keygen -R" in str(error.hint)


def test_a_new_key_is_pinned_once_and_strict_from_then_on(site: Site, tmp_path: Path) -> None:
    known = tmp_path / "new" / "known_hosts"
    for accept in (True, True, False):
        connection = site.connection(known_hosts=known, accept=accept)
        connection.open()
        connection.close()
    assert known.read_text(encoding="ascii") == site.node.known


def test_openssh_itself_reads_what_was_pinned(site: Site, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    connection = site.connection(known_hosts=known, accept=True)
    connection.open()
    connection.close()
    options = [
        f"UserKnownHostsFile={known}",
        "GlobalKnownHostsFile=/dev/null",
        "StrictHostKeyChecking=yes",
        "BatchMode=yes",
    ]
    done = subprocess.run(
        ["ssh", "-F", "/dev/null", "-i", str(site.key), *(f"-o{option}" for option in options),
         "-p", str(site.node.port), f"{getpass.getuser()}@127.0.0.1", "echo", "in"],
        capture_output=True, check=False, timeout=20,
    )  # fmt: skip
    assert done.stdout == b"in\n", done.stderr


def test_lines_that_openssh_accepts_or_skips_break_nothing(site: Site, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    name = site.node.known.split()[0]
    around = f"@cert-authority * {site.jump.public}\n@revoked * {site.jump.public}\n{name} ssh-ed25519 AAAAC3NzaC1lZ\n"
    known.write_bytes(f"{around}{site.node.known}{around}".encode() + b"# caf\xe9\n")
    connection = site.connection(known_hosts=known)
    connection.open()
    connection.close()


def test_the_systems_known_hosts_is_read_in_the_same_way(site: Site, tmp_path: Path) -> None:
    system = tmp_path / "ssh_known_hosts"
    system.write_text(f"@cert-authority * {site.jump.public}\n{site.node.known}", encoding="ascii")
    config = tmp_path / "config"
    config.write_text(f"Host *\n  GlobalKnownHostsFile {system}\n  UserKnownHostsFile none\n", encoding="ascii")
    node = Node(name="gpu1", host="127.0.0.1", user=getpass.getuser(), port=site.node.port)
    connection = SshConnection(node, SshDefaults(key=site.key, config=config), Timeouts(connect_s=10))
    connection.open()
    connection.close()


def test_a_known_hosts_file_that_cannot_be_read_is_named(site: Site, tmp_path: Path) -> None:
    assert str(tmp_path) in refused(site.connection(known_hosts=tmp_path)).message


@pytest.mark.parametrize("accept", [False, True])
@pytest.mark.parametrize("otherwise", ["unknown", "pinned", "another type pinned"])
def test_a_revoked_key_is_refused_also_when_it_is_pinned_or_new_ones_are_accepted(
    site: Site, tmp_path: Path, otherwise: str, accept: bool
) -> None:
    known = tmp_path / "known_hosts"
    name = site.node.known.split()[0]
    also = {"unknown": "", "pinned": site.node.known, "another type pinned": f"{name} {ECDSA}\n"}[otherwise]
    known.write_text(f"{also}@revoked * {site.node.public}\n", encoding="ascii")
    before = known.read_bytes()
    error = refused(site.connection(known_hosts=known, accept=accept))
    assert isinstance(error, HostKeyError)
    assert "revoked" in error.message
    assert fingerprint_of(site.node.host_key) in error.message
    assert known.read_bytes() == before, "it is not pinned either"


def test_a_key_for_which_only_an_authority_could_vouch_is_unknown(site: Site) -> None:
    error = refused(site.connection(known=f"@cert-authority * {site.node.public}\n"))
    assert isinstance(error, HostKeyError)
    assert "not in" in error.message
    assert "@cert-authority" in error.message
    assert "showed no certificate" in error.message


def test_a_connection_without_acknowledgements_ends(site: Site) -> None:
    """That it does is Linux's part (tcp(7)); a cable is pulled in the lab (tests/lab, partition)."""
    connection = site.connection()
    connection.open()
    sock = connection._connection.transport.sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
    connection.close()


def test_a_key_is_pinned_on_a_line_of_its_own(site: Site, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    unended = f"other {site.jump.public}"
    known.write_text(unended, encoding="ascii")
    connection = site.connection(known_hosts=known, accept=True)
    connection.open()
    connection.close()
    assert known.read_text(encoding="ascii") == f"{unended}\n{site.node.known}"


# Logging in


def test_a_wrong_user_key_is_refused(site: Site, tmp_path: Path) -> None:
    keygen(tmp_path / "other")
    error = refused(site.connection(key=tmp_path / "other"))
    assert "login refused" in error.message
    assert getpass.getuser() in error.message


def test_an_encrypted_key_without_an_agent_says_so(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "hunter22", "-f", str(path)], check=True, timeout=20)
    error = refused(site.connection(key=path))
    assert "encrypted" in error.message
    assert "ssh-add" in str(error.hint)


def test_a_key_file_that_is_not_there(site: Site, tmp_path: Path) -> None:
    assert "nowhere" in refused(site.connection(key=tmp_path / "nowhere")).message


def test_nobody_listens(site: Site) -> None:
    assert "cannot connect" in refused(site.connection(port=free_port())).message


def test_no_such_host(site: Site) -> None:
    error = refused(site.connection(host="no-such-host.invalid"))
    assert "no-such-host.invalid" in error.message


def test_a_port_that_is_not_ssh_is_given_up_in_time(site: Site) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        error = refused(site.connection(port=silent.getsockname()[1], timeouts=Timeouts(connect_s=1)))
        assert time.monotonic() - began < 8
        assert "127.0.0.1" in error.message


# Commands


def test_exit_codes_are_results(ssh: SshConnection) -> None:
    assert [ssh.run(["sh", "-c", f"exit {code}"]).exit_code for code in (0, 1, 44, 127, 255)] == [0, 1, 44, 127, 255]


def test_a_command_that_is_not_there_is_127_not_an_error(ssh: SshConnection) -> None:
    assert ssh.run(["no-such-command"]).exit_code == 127


def test_arguments_arrive_as_they_are(ssh: SshConnection) -> None:
    arguments = ["a b", "$HOME", "`id`", "'\"\\", "*", "ü\n", "", "--x=y;z"]
    done = ssh.run(["printf", "%s\\0", *arguments])
    assert done.stdout.decode().split("\0")[:-1] == arguments


def test_stdin_reaches_the_command_whole(ssh: SshConnection) -> None:
    data = bytes(range(256)) * 4096
    assert ssh.run(["cat"], stdin=data).stdout == data


def test_stdout_and_stderr_stay_apart_also_when_stderr_is_larger_than_any_window(ssh: SshConnection) -> None:
    done = ssh.run(["sh", "-c", "head -c 5000000 /dev/zero >&2; echo out; echo err >&2"])
    assert done.stdout == b"out\n"
    assert len(done.stderr) == 5_000_004
    assert done.stderr.endswith(b"err\n")


def test_a_command_that_does_not_end_is_an_error_at_its_deadline(ssh: SshConnection) -> None:
    began = time.monotonic()
    with pytest.raises(CommandTimeoutError, match=r"`sleep` did not end within 0\.5 s"):
        ssh.run(["sleep", "30"], timeout_s=0.5)
    assert time.monotonic() - began < 5
    assert ssh.run(["true"]).exit_code == 0, "the connection is still good"


def test_a_command_that_closes_its_output_and_goes_on_is_an_error_at_its_deadline(ssh: SshConnection) -> None:
    with pytest.raises(ClusterctlError):
        ssh.run(["sh", "-c", "exec >&- 2>&-; sleep 30"], timeout_s=0.5)


def test_a_command_that_is_killed_has_no_exit_code_to_trust(ssh: SshConnection) -> None:
    with pytest.raises(ConnectionLostError, match="without an exit code"):
        ssh.run(["sh", "-c", "kill -9 $$"])


def test_many_commands_at_once_share_the_connection(ssh: SshConnection) -> None:
    got: dict[int, bytes] = {}
    threads = [threading.Thread(target=lambda n=n: got.update({n: ssh.run(["echo", str(n)]).stdout})) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert got == {n: f"{n}\n".encode() for n in range(8)}


def test_a_connection_that_was_never_opened_or_is_closed_says_so(site: Site) -> None:
    connection = site.connection()
    with pytest.raises(ConnectionLostError, match="closed"):
        connection.run(["true"])
    connection.open()
    connection.close()
    connection.close()
    with pytest.raises(ConnectionLostError, match="closed"):
        connection.run(["true"])


def test_a_machine_that_dies_is_a_lost_connection_during_a_command_and_after_it(site: Site, tmp_path: Path) -> None:
    sshd = Sshd(tmp_path / "doomed", site.key)
    connection = site.connection(known=sshd.known, port=sshd.port)
    connection.open()
    timer = threading.Timer(0.5, sshd.kill)
    timer.start()
    with pytest.raises(ConnectionLostError) as caught:
        connection.run(["sleep", "30"])
    timer.join(20)
    assert caught.value.node == "gpu1"
    assert "127.0.0.1" in caught.value.message
    with pytest.raises(ConnectionLostError):
        connection.run(["true"])
    connection.close()


# Commands whose streams are passed on


def taken(command: SshCommand, deadline_s: float = 20) -> tuple[bytes, bytes]:
    """All of its stdout and stderr."""
    pieces = list(command.pieces(time.monotonic() + deadline_s))
    stdout, stderr = (b"".join(data for stream, data in pieces if stream == name) for name in ("stdout", "stderr"))
    return stdout, stderr


def test_streams_are_passed_on_as_they_come(ssh: SshConnection) -> None:
    command = ssh.start(["sh", "-c", "echo first; read line; echo $line >&2; exit 7"])
    pieces = command.pieces(time.monotonic() + 20)
    assert next(pieces) == ("stdout", b"first\n")
    command.send(b"second\n")
    assert next(pieces) == ("stderr", b"second\n")
    assert list(pieces) == []
    assert command.exit_code() == 7


def test_bytes_go_through_untouched_and_the_end_of_input_with_them(ssh: SshConnection) -> None:
    content = bytes(range(256)) * 20_000
    command = ssh.start(["cat"])

    def feed() -> None:
        command.send(content)
        command.end_input()

    feeder = threading.Thread(target=feed)
    feeder.start()
    assert taken(command) == (content, b"")
    feeder.join(20)
    assert command.exit_code() == 0


def test_what_is_not_taken_waits_on_the_node(ssh: SshConnection) -> None:
    command = ssh.start(["yes"])
    pieces = command.pieces(time.monotonic() + 20)
    next(pieces)
    time.sleep(1)
    # paramiko's window is 2 MiB; the command has long filled it, and waits.
    assert ssh.run(["echo", "still"]).stdout == b"still\n"
    command.close()


def test_silence_ends_at_the_deadline(ssh: SshConnection) -> None:
    began = time.monotonic()
    with pytest.raises(CommandTimeoutError):
        taken(ssh.start(["sleep", "30"]), deadline_s=0.7)
    assert time.monotonic() - began < 5


def test_a_shell_has_a_terminal_of_the_size_that_it_is_told(ssh: SshConnection) -> None:
    shell = ssh.shell("dumb", WindowSize(columns=101, rows=33))
    shell.send(b"stty size; echo $TERM; read x; stty size; exit 9\n")
    seen = b""
    for _, data in shell.pieces(time.monotonic() + 20):
        seen += data
        if b"33 101" in seen and b"resized" not in seen:
            shell.resize(WindowSize(columns=122, rows=44))
            shell.send(b"resized\n")
    assert b"44 122" in seen
    assert shell.exit_code() == 9


# Jump hosts


def test_a_node_behind_a_jump_host(site: Site) -> None:
    via = f"{getpass.getuser()}@127.0.0.1:{site.jump.port}"
    connection = site.connection(known=site.node.known + site.jump.known, jump=via)
    connection.open()
    try:
        assert connection.run(["echo", "through"]).stdout == b"through\n"
        ports = connection.run(["sh", "-c", "echo $SSH_CONNECTION"]).stdout.split()
        assert int(ports[3]) == site.node.port
    finally:
        connection.close()


@pytest.mark.parametrize("unknown", ["jump", "node"])
def test_a_jump_host_is_as_strict_as_the_node_behind_it(site: Site, unknown: str) -> None:
    known, stranger = (site.node, site.jump) if unknown == "jump" else (site.jump, site.node)
    via = f"{getpass.getuser()}@127.0.0.1:{site.jump.port}"
    error = refused(site.connection(known=known.known, jump=via))
    assert isinstance(error, HostKeyError)
    assert fingerprint_of(stranger.host_key) in error.message


def test_an_unknown_key_of_a_jump_host_is_said_to_be_the_jump_hosts(site: Site) -> None:
    via = f"{getpass.getuser()}@127.0.0.1:{site.jump.port}"
    assert f":{site.jump.port}" in refused(site.connection(known=site.node.known, jump=via)).message


def test_a_jump_host_of_ssh_config_is_as_strict(site: Site, tmp_path: Path) -> None:
    site_config = site.config
    site.config = tmp_path / "config"
    site.config.write_text(
        f"Host jump\n  HostName 127.0.0.1\n  Port {site.jump.port}\n  User {getpass.getuser()}\n"
        f"Host node\n  HostName 127.0.0.1\n  Port {site.node.port}\n  ProxyJump jump\n",
        encoding="utf-8",
    )
    try:
        error = refused(site.connection(known=site.node.known, host="node", port=None))
        assert isinstance(error, HostKeyError)
        assert fingerprint_of(site.jump.host_key) in error.message
    finally:
        site.config = site_config


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that answers nothing, as that of a machine that is off: its queue is full, so Linux drops every SYN."""
    with contextlib.ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = open_sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.parametrize("by", ["inventory", "ssh_config"])
def test_a_node_that_is_off_behind_a_jump_host_is_given_up_in_time(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent_port: int, by: str
) -> None:
    via = f"{getpass.getuser()}@127.0.0.1:{site.jump.port}"
    if by == "ssh_config":
        monkeypatch.setattr(site, "config", tmp_path / "config")
        site.config.write_text(
            f"Host *\n  IdentityFile {site.key}\nHost 127.0.0.1\n  Port {silent_port}\n"
            f"Host node\n  HostName 127.0.0.1\n  Port {silent_port}\n  ProxyJump {getpass.getuser()}@localhost:"
            f"{site.jump.port}\n",
            encoding="utf-8",
        )
    node = {"jump": via, "port": silent_port} if by == "inventory" else {"host": "node", "port": None}
    known = f"[localhost]:{site.jump.port},{site.jump.known}"
    threads = set(threading.enumerate())
    began = time.monotonic()
    connection = site.connection(known=known, timeouts=Timeouts(connect_s=2), **node)
    with pytest.raises(ConnectError, match="no answer within 2 s") as caught:
        connection.open()
    assert time.monotonic() - began < 8
    assert f":{silent_port} through jump host {getpass.getuser()}@" in caught.value.message
    assert f":{site.jump.port}" in caught.value.message
    assert "from the jump host" in str(caught.value.hint)
    for thread in set(threading.enumerate()) - threads:
        thread.join(5)
        assert not thread.is_alive(), "the connection to the jump host is closed"


def test_a_node_without_sshd_behind_a_jump_host(site: Site) -> None:
    via = f"{getpass.getuser()}@127.0.0.1:{site.jump.port}"
    error = refused(site.connection(known=site.jump.known, jump=via, port=free_port()))
    assert "the jump host cannot connect to it" in error.message
    assert via in error.message


@pytest.mark.parametrize(("jump", "at_once"), [("bastion", 8), (None, 12)])
def test_a_jump_host_sees_no_more_logins_at_once_than_its_sshd_takes(
    site: Site, monkeypatch: pytest.MonkeyPatch, jump: str | None, at_once: int
) -> None:
    """Of more than ten it drops some (its default MaxStartups 10:30:100). Nodes without a jump host have no turns."""
    first = jump or "127.0.0.1"
    running = most = 0
    counting = threading.Lock()

    def login(hop: Hop) -> None:
        nonlocal running, most
        if hop.host != first:
            return
        with counting:
            running += 1
            most = max(most, running)
        time.sleep(0.3)
        with counting:
            running -= 1

    monkeypatch.setattr(Hop, "open", login)

    def connect() -> None:
        with contextlib.suppress(ConnectionLostError):  # nothing is really open
            site.connection(jump=jump).open()

    threads = [threading.Thread(target=connect) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most == at_once


def test_a_jump_host_that_is_off_costs_two_time_outs_however_many_nodes_are_behind_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clusterctl.hosts.ssh.hops.JUMP_LOGINS", 1)
    limit_s = 0.5

    def no_answer(hop: Hop) -> None:
        time.sleep(limit_s)
        raise TimeoutError

    monkeypatch.setattr(Hop, "open", no_answer)

    def connect() -> None:
        with contextlib.suppress(ConnectError):
            site.connection(jump="off", timeouts=Timeouts(connect_s=limit_s)).open()

    threads = [threading.Thread(target=connect) for _ in range(8)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert time.monotonic() - began < 5 * limit_s


# HTTP over the connection


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/slow":
            time.sleep(1)
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_http_travels_over_the_connection(ssh: SshConnection, echo: str) -> None:
    big = b"x" * 300_000
    with client_over(ssh, echo, timeout_s=10) as client:
        assert client.post("/a", content=b"one").content == b"one"
        assert client.post("/b", content=big).content == big


def test_an_http_server_that_is_slow_or_gone_is_httpx_own_error(ssh: SshConnection, echo: str) -> None:
    with client_over(ssh, echo, timeout_s=0.3) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/slow", content=b"x")
    with (
        client_over(ssh, f"http://127.0.0.1:{free_port()}", timeout_s=5) as client,
        pytest.raises(httpx.ConnectError),
    ):
        client.get("/")


def test_proxies_of_the_operators_environment_are_not_used(
    ssh: SshConnection, echo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with client_over(ssh, echo, timeout_s=10) as client:
        assert client.post("/", content=b"direct").content == b"direct"


def test_a_node_that_forbids_forwarding_says_which_setting_it_is(site: Site, tmp_path: Path, echo: str) -> None:
    sshd = Sshd(tmp_path / "closed", site.key, AllowTcpForwarding="no")
    connection = site.connection(known=sshd.known, port=sshd.port)
    connection.open()
    try:
        with client_over(connection, echo, timeout_s=10) as client, pytest.raises(httpx.ConnectError) as caught:
            client.post("/", content=b"x")
        assert "AllowTcpForwarding" in str(caught.value)
        assert connection.run(["true"]).exit_code == 0
    finally:
        connection.close()
        sshd.kill()
