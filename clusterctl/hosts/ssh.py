"""The door to SSH: Fabric opens one connection per node, once; everything else is a channel on it.

Host keys are strict. Fabric's own default is to trust unknown keys (`AutoAddPolicy`, fabric 3.2 connection.py);
here every client on the way, jump hosts included, gets a policy that refuses, or that pins a new key when
the operator said so.
"""

from __future__ import annotations

import contextlib
import logging
import select
import shlex
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import fabric
import paramiko

from clusterctl.errors import ClusterctlError, UsageError
from clusterctl.inventory.model import Node, SshDefaults, Timeouts

KEEPALIVE_S = 15
"""Seconds between keepalives, so that a cut cable ends a blocked read instead of hanging it."""

MAX_OUTPUT_BYTES = 32 * 1024 * 1024
"""A remote command that prints more than this is broken; nothing that clusterctl runs comes near."""

CHUNK_BYTES = 64 * 1024
"""How much of a stream is taken at once: twice an SSH packet's payload (32 KiB, RFC 4253, 6.1)."""

TURN_S = 0.5
"""Seconds after which a wait for output looks at its deadline and at interrupts."""

# paramiko logs to stderr what is raised to us anyway («Secsh channel 3 open FAILED» for each refused port).
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False

_pin_lock = threading.Lock()


class HostError(ClusterctlError):
    """A node could not be reached, or a remote operation on it failed. Names the node."""

    def __init__(self, node: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.node = node


class ConnectError(HostError):
    """The SSH connection could not be opened."""


class HostKeyError(ConnectError):
    """The node's host key is unknown or is not the pinned one."""


class CommandTimeoutError(HostError):
    """A remote command did not end before its deadline."""


class ConnectionLostError(HostError):
    """The SSH connection broke while it was in use."""


@dataclass(frozen=True)
class Completed:
    """What a remote command ended with."""

    exit_code: int
    stdout: bytes
    stderr: bytes


Piece = tuple[Literal["stdout", "stderr"], bytes]
"""Some bytes of a running command's output, and where it wrote them."""


@dataclass(frozen=True)
class WindowSize:
    """Of a terminal, in characters."""

    columns: int
    rows: int


class _UnknownHostKeyError(paramiko.SSHException):
    """Raised by the strict policy, so that an unknown key is told from other SSH failures by type."""

    def __init__(self, hostname: str, key: paramiko.PKey) -> None:
        super().__init__(f"unknown host key of {hostname}")
        self.hostname = hostname
        self.key = key


class _Refuse(paramiko.MissingHostKeyPolicy):
    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        raise _UnknownHostKeyError(hostname, key)


class _PinOnce(paramiko.MissingHostKeyPolicy):
    """Trust on first use: append the key to known_hosts, so that from then on it is pinned."""

    def __init__(self, known_hosts: Path) -> None:
        self.known_hosts = known_hosts

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        with _pin_lock:
            self.known_hosts.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self.known_hosts.open("a", encoding="utf-8") as file:
                file.write(f"{hostname} {key.get_name()} {key.get_base64()}\n")


def fingerprint(key: paramiko.PKey) -> str:
    """The key's fingerprint as `ssh-keygen -l` prints it: `SHA256:…`."""
    return key.fingerprint


class SshConnection:
    """One node's SSH connection, opened once and shared by everything that talks to the node.

    Channels may be opened from several threads at once (paramiko's transport is thread-safe).
    """

    def __init__(self, node: Node, ssh: SshDefaults, timeouts: Timeouts, *, accept_new_host_keys: bool = False) -> None:
        self.node = node.name
        self._command_timeout_s = timeouts.command_s
        self._connect_timeout_s = timeouts.connect_s
        self._known_hosts = ssh.known_hosts or Path("~/.ssh/known_hosts").expanduser()
        self._own_known_hosts = ssh.known_hosts is not None
        self._policy = _PinOnce(self._known_hosts) if accept_new_host_keys else _Refuse()
        config = _ssh_config(ssh.config)
        key = node.key or ssh.key
        connect_kwargs = {
            "banner_timeout": timeouts.connect_s,
            "auth_timeout": timeouts.connect_s,
            **({"key_filename": str(key), "look_for_keys": False} if key else {}),
        }
        # Fabric truncates to whole seconds, and 0 would mean «no time-out».
        connect_timeout_s = max(1, round(timeouts.connect_s))
        jump = node.jump or ssh.jump
        gateway = (
            fabric.Connection(
                jump, config=config, connect_kwargs=dict(connect_kwargs), connect_timeout=connect_timeout_s
            )
            if jump
            else None
        )
        self._connection = fabric.Connection(
            node.host,
            user=node.user or ssh.user,
            port=node.port or ssh.port,
            config=config,
            gateway=gateway,
            connect_kwargs=connect_kwargs,
            connect_timeout=connect_timeout_s,
        )

    @property
    def command_timeout_s(self) -> float:
        """How long one command may take, in seconds (timeouts.command_s)."""
        return self._command_timeout_s

    @property
    def target(self) -> str:
        """user@host:port, as connected to (ssh_config applied)."""
        return f"{self._connection.user}@{self._connection.host}:{self._connection.port}"

    def open(self) -> None:
        """Connect and authenticate. Raises ConnectError (HostKeyError for host keys) with the fix."""
        try:
            for hop in self._hops():
                self._make_strict(hop.client)
            self._connection.open()
        except _UnknownHostKeyError as error:
            raise HostKeyError(
                self.node,
                f"{self._shown(error.hostname)}: its host key is not in {self._known_hosts} "
                f"(it showed {error.key.get_name()} {fingerprint(error.key)})",
                hint="compare that fingerprint with the machine's own (on its console: "
                "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then run once with --accept-new-host-keys",
            ) from error
        except paramiko.BadHostKeyException as error:
            raise HostKeyError(
                self.node,
                f"{self._shown(error.hostname)}: its host key is NOT the one in {self._known_hosts}: expected "
                f"{fingerprint(error.expected_key)}, it showed {fingerprint(error.key)}",
                hint="either the machine was reinstalled or something answers in its place; when you know it was "
                f"reinstalled: ssh-keygen -R '{error.hostname}' -f {self._known_hosts}, then --accept-new-host-keys",
            ) from error
        except paramiko.PasswordRequiredException as error:
            raise ConnectError(
                self.node,
                f"{self.target}: the private key is encrypted",
                hint="load it into an agent: ssh-add KEYFILE",
            ) from error
        except paramiko.AuthenticationException as error:
            raise ConnectError(
                self.node,
                f"{self.target}: SSH login refused ({error})",
                hint=f"check the user and key of this node in the inventory; try: ssh {self.target.rsplit(':', 1)[0]}",
            ) from error
        except socket.gaierror as error:
            raise ConnectError(
                self.node, f"{self.target}: cannot resolve the host name ({error.strerror})", hint="check `host`"
            ) from error
        except TimeoutError as error:
            raise ConnectError(
                self.node,
                f"{self.target}: no answer within {self._connect_timeout_s:g} s",
                hint="is the machine on, and is its SSH port reachable from here?",
            ) from error
        except paramiko.ssh_exception.NoValidConnectionsError as error:
            reasons = ", ".join(
                sorted({str(getattr(reason, "strerror", None) or reason) for reason in error.errors.values()})
            )
            raise ConnectError(
                self.node,
                f"{self.target}: cannot connect ({reasons})",
                hint="is the machine on, and is sshd running on that port?",
            ) from error
        except (paramiko.SSHException, OSError, EOFError, ValueError) as error:
            raise ConnectError(
                self.node, f"{self.target}: SSH failed ({error or type(error).__name__})", hint=f"ssh -v {self.target}"
            ) from error
        self._transport.set_keepalive(KEEPALIVE_S)

    def _shown(self, hostname: str) -> str:
        """Whose key it was: the node's, or that of a jump host on the way (known_hosts notation: [host]:port)."""
        node = self._connection
        own = hostname in (node.host, f"[{node.host}]:{node.port}")
        return self.target if own else f"jump host {hostname}"

    def close(self) -> None:
        """Close the connection and its jump hosts'; harmless when it is not open."""
        for hop in self._hops():
            hop.client.close()

    @property
    def _transport(self) -> paramiko.Transport:
        transport: paramiko.Transport | None = self._connection.client.get_transport()
        if transport is None or not transport.is_active():
            raise ConnectionLostError(self.node, f"{self.target}: the SSH connection is closed")
        return transport

    def _hops(self) -> Iterator[fabric.Connection]:
        hop = self._connection
        while isinstance(hop, fabric.Connection):
            yield hop
            hop = hop.gateway

    def _make_strict(self, client: paramiko.SSHClient) -> None:
        client.set_missing_host_key_policy(self._policy)
        files = [self._known_hosts] if self._own_known_hosts else [Path("/etc/ssh/ssh_known_hosts"), self._known_hosts]
        for file in files:
            if file.exists():
                # `load_system_host_keys` never writes the file back, unlike `load_host_keys`.
                client.load_system_host_keys(str(file))

    def session(self, argv: Sequence[str], *, timeout_s: float | None = None) -> paramiko.Channel:
        """Start a command and return its channel. The one place where argv becomes a quoted command line."""
        timeout_s = timeout_s or self._command_timeout_s
        try:
            channel = self._transport.open_session(timeout=timeout_s)
            channel.settimeout(timeout_s)
            channel.exec_command(shlex.join(argv))
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self.lost(f"could not start `{argv[0]}`", error) from error
        return channel

    def connect_to(self, address: str, port: int, *, timeout_s: float) -> paramiko.Channel:
        """A TCP connection from the node to address:port, carried by this connection (`direct-tcpip`).

        Raises OSError when the far port refuses or the node's sshd forbids forwarding, TimeoutError at the deadline.
        """
        try:
            channel = self._transport.open_channel("direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=timeout_s)
        except paramiko.ChannelException as error:
            if error.code == 1:  # SSH_OPEN_ADMINISTRATIVELY_PROHIBITED (RFC 4254, 5.1)
                raise PermissionError(
                    f"sshd on {self.node} forbids TCP forwarding (AllowTcpForwarding); the API is asked through it"
                ) from error
            raise ConnectionRefusedError(f"{address}:{port} refused the connection") from error
        except (paramiko.SSHException, EOFError) as error:
            raise TimeoutError(f"{address}:{port} did not answer within {timeout_s:g} s") from error
        channel.settimeout(timeout_s)
        return channel

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float | None = None) -> Completed:
        """Run a command to its end. A non-zero exit code is a result, not an error.

        Raises CommandTimeoutError at the deadline, ConnectionLostError when the connection breaks.
        """
        timeout_s = timeout_s or self._command_timeout_s
        deadline = time.monotonic() + timeout_s
        channel = self.session(argv, timeout_s=timeout_s)
        stderr: list[bytes] = []
        drain = threading.Thread(target=_drain_stderr, args=(channel, stderr), daemon=True)
        drain.start()
        try:
            if stdin:
                channel.sendall(stdin)
            channel.shutdown_write()
            stdout = _read_until(channel, deadline)
            drain.join(max(0.0, deadline - time.monotonic()))
            channel.status_event.wait(max(0.0, deadline - time.monotonic()))
        except TimeoutError as error:
            raise CommandTimeoutError(
                self.node,
                f"`{argv[0]}` did not end within {timeout_s:g} s",
                hint="the machine may be overloaded or a file system on it hang; raise timeouts.command_s only "
                "when the command is merely slow",
            ) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self.lost(f"lost during `{argv[0]}`", error) from error
        finally:
            channel.close()
        if not channel.status_event.is_set() or channel.exit_status == -1:
            raise self.lost(f"`{argv[0]}` ended without an exit code", None)
        return Completed(channel.exit_status, stdout, b"".join(stderr))

    def start(self, argv: Sequence[str]) -> SshCommand:
        """Start a command whose streams are passed on while it runs. No deadline: `SshCommand.pieces` has one."""
        return SshCommand(self, self.session(argv), argv[0])

    def shell(self, term: str, size: WindowSize) -> SshCommand:
        """The login's own shell on a new terminal of this type ($TERM) and size."""
        try:
            channel = self._transport.open_session(timeout=self._command_timeout_s)
            channel.settimeout(self._command_timeout_s)
            channel.get_pty(term, size.columns, size.rows)
            channel.invoke_shell()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self.lost("could not start a shell", error) from error
        return SshCommand(self, channel, "shell")

    def lines(self, argv: Sequence[str], *, stdin: bytes = b"", silence_s: float | None = None) -> Iterator[str]:
        """Lines of a long command's output (stderr among them) as they come, until it ends with exit code 0.

        Raises CommandTimeoutError when nothing comes for `silence_s`, HostError for another exit code.
        """
        silence_s = silence_s or self._command_timeout_s
        channel = self.session(argv, timeout_s=silence_s)
        channel.set_combine_stderr(True)
        last = ""
        try:
            channel.sendall(stdin)
            channel.shutdown_write()
            for line in channel.makefile("r"):
                last = line.rstrip("\n")
                yield last
            channel.status_event.wait(silence_s)
        except TimeoutError as error:
            raise CommandTimeoutError(
                self.node, f"`{argv[0]}` said nothing for {silence_s:g} s", hint="does a file system on it hang?"
            ) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self.lost(f"lost during `{argv[0]}`", error) from error
        finally:
            channel.close()
        if channel.exit_status != 0:
            raise HostError(self.node, f"`{argv[0]}` ended with exit code {channel.exit_status}: {last}")

    def converse(self, argv: Sequence[str], *, stdin: bytes) -> Conversation:
        """Start a command that is then spoken with line by line. `stdin` is what it is sent first."""
        conversation = Conversation(self.node, argv[0], self.session(argv))
        conversation.send(stdin)
        return conversation

    def lost(self, what: str, error: BaseException | None) -> ConnectionLostError:
        """The error for a connection that broke while it did this."""
        detail = f" ({error or type(error).__name__})" if error is not None else ""
        return ConnectionLostError(
            self.node, f"{self.target}: {what}{detail}", hint="is the machine still up? then run the command again"
        )


class SshCommand:
    """A command that runs on the node. Its methods raise ConnectionLostError when the connection breaks.

    Input and output may be used from two threads; nobody else may read.
    """

    def __init__(self, ssh: SshConnection, channel: paramiko.Channel, what: str) -> None:
        channel.settimeout(None)  # a command may be silent, and may not read, for as long as it likes
        self._ssh, self._channel, self._what = ssh, channel, what

    def send(self, data: bytes) -> None:
        """To its stdin; waits while the command does not read."""
        try:
            self._channel.sendall(data)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._ssh.lost(f"lost during `{self._what}`", error) from error

    def end_input(self) -> None:
        """Close its stdin."""
        try:
            self._channel.shutdown_write()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._ssh.lost(f"lost during `{self._what}`", error) from error

    def resize(self, size: WindowSize) -> None:
        """Tell it the new size of its terminal; harmless when it has ended."""
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            self._channel.resize_pty(size.columns, size.rows)

    def pieces(self, deadline: float | None = None) -> Iterator[Piece]:
        """Its output as it comes, to its end. Raises CommandTimeoutError at the deadline (time.monotonic())."""
        yield from arriving(self._channel, self._ssh.node, self._what, deadline)

    def exit_code(self) -> int:
        """What it ended with, once its output has ended; 128 and more when a signal ended it, as shells have it."""
        if not self._channel.status_event.wait(self._ssh.command_timeout_s) or self._channel.exit_status == -1:
            raise self._ssh.lost(f"`{self._what}` ended without an exit code", None)
        return self._channel.exit_status

    def close(self) -> None:
        """Give its streams up. The command itself may go on."""
        self._channel.close()


def arriving(channel: paramiko.Channel, node: str, what: str, deadline: float | None) -> Iterator[Piece]:
    """What comes on a channel, stdout and stderr, as it comes, to its end. What is not taken stays on the node.

    Waits in turns, so that Ctrl-C and the deadline (time.monotonic()) are seen; raises CommandTimeoutError there.
    """
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    while True:
        ended = channel.eof_received or channel.closed  # before looking: what came until then is in the buffers
        silent = True
        if channel.recv_stderr_ready():
            yield "stderr", channel.recv_stderr(CHUNK_BYTES)
            silent = False
        if channel.recv_ready():
            yield "stdout", channel.recv(CHUNK_BYTES)
            silent = False
        if deadline is not None and time.monotonic() >= deadline:
            raise CommandTimeoutError(node, f"`{what}` did not end in time")
        if silent and ended:
            return
        if silent:
            poll.poll(1000 * min(TURN_S, max(0.0, deadline - time.monotonic()) if deadline is not None else TURN_S))


class Conversation:
    """A running remote command: lines go in, lines (stderr among them) come out. One thread reads, any may send."""

    def __init__(self, node: str, name: str, channel: paramiko.Channel) -> None:
        self._node, self._name, self._channel = node, name, channel
        self._sending = threading.Lock()
        channel.set_combine_stderr(True)

    def send(self, data: bytes) -> None:
        """Raises ConnectionLostError when the command or the connection is not there any more."""
        try:
            with self._sending:
                self._channel.sendall(data)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise ConnectionLostError(self._node, f"`{self._name}` can no longer be spoken with ({error})") from error

    def lines(self, turn_s: float) -> Iterator[str | None]:
        """Its lines as they come, and None whenever none came for `turn_s` seconds; ends with the command or the
        connection."""
        rest = b""
        while True:
            self._channel.settimeout(turn_s)
            try:
                data = self._channel.recv(65536)
            except TimeoutError:
                if self._channel.exit_status_ready():  # ended, though a child of it keeps its output open
                    return
                yield None
                continue
            except (paramiko.SSHException, EOFError, OSError):
                return
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")

    def close(self) -> None:
        """End it: the command reads the end of its input."""
        self._channel.close()


def _ssh_config(path: Path | None) -> fabric.Config:
    """Fabric's configuration with the operator's ssh_config. Raises UsageError when that cannot be read."""
    try:
        return fabric.Config(runtime_ssh_path=str(path)) if path else fabric.Config()
    except (OSError, paramiko.ConfigParseError) as error:
        raise UsageError(
            f"ssh.config: cannot read {path or 'your ssh_config'}: {error}",
            hint="ssh -G somewhere tells where it is wrong",
        ) from error


def _read_until(channel: paramiko.Channel, deadline: float) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        channel.settimeout(remaining)
        chunk = channel.recv(65536)
        if not chunk:
            return b"".join(chunks)
        size += len(chunk)
        if size > MAX_OUTPUT_BYTES:
            raise OSError(f"the command printed more than {MAX_OUTPUT_BYTES} bytes")
        chunks.append(chunk)


def _drain_stderr(channel: paramiko.Channel, into: list[bytes]) -> None:
    """Read stderr beside stdout: a full stderr window would block the remote command."""
    try:
        while chunk := channel.recv_stderr(65536):
            into.append(chunk)
    except (OSError, EOFError):
        return
