"""The door to SSH: Fabric opens one connection per node, once; everything else is a channel on it.

Host keys are strict. Fabric's own default is to trust unknown keys (`AutoAddPolicy`, fabric 3.2 connection.py);
here every client on the way, jump hosts included, gets a policy that refuses, or that pins a new key when
the operator said so. known_hosts is read here, not by paramiko: its own loader ends at the first line with a
marker or a damaged key (`InvalidHostKey` is no SSHException, paramiko 5.1 hostkeys.py), and knows no @revoked.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import logging
import os
import re
import select
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import fabric
import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

from clusterctl.errors import ClusterctlError, UsageError
from clusterctl.hosts.ordered_transport import OrderedTransport, end_input, transport_of
from clusterctl.inventory.model import Node, SshDefaults, Timeouts

T = TypeVar("T")

KEEPALIVE_S = 15
"""Seconds between keepalives: who only reads would never learn that nobody is there any more."""
UNANSWERED_S = 60
"""Seconds until what TCP has sent, keepalives among it, must have been acknowledged (Linux's TCP_USER_TIMEOUT; by
default a cut cable is noticed after 15 minutes, net.ipv4.tcp_retries2)."""

MAX_OUTPUT_BYTES = 32 * 1024 * 1024
"""A remote command that prints more than this is broken; nothing that clusterctl runs comes near."""

CHUNK_BYTES = 64 * 1024
"""How much of a stream is taken at once: twice an SSH packet's payload (32 KiB, RFC 4253, 6.1)."""

TURN_S = 0.5
"""Seconds after which a wait for output looks at its deadline and at interrupts."""

FAREWELL_LENGTH = 200
"""Characters that are shown of what a server says when it ends the connection."""

SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")
"""Host keys for every user of this machine; read unless the inventory names a known_hosts file of its own."""

JUMP_LOGINS = 8
"""Logins at one jump host at once. From the tenth on, sshd drops some at random (its default MaxStartups 10:30:100)."""

# paramiko logs to stderr what is raised to us anyway («Secsh channel 3 open FAILED» for each refused port).
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False

_pin_lock = threading.Lock()
_jump_turns: dict[str, threading.Semaphore] = {}
"""user@host:port of each jump host → the turns to log in there, which all nodes behind it share."""


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


@dataclass(frozen=True)
class KnownKeys:
    """What known_hosts says of one host."""

    trusted: tuple[paramiko.PKey, ...]
    """Its own keys, in the order of the lines; none of them is revoked."""
    revoked: tuple[paramiko.PKey, ...]
    """Keys that must never be its key (`@revoked`)."""
    certified: bool
    """Whether an authority vouches for it (`@cert-authority`). That counts for nothing here: paramiko does not know
    host certificates."""


def known_keys(lines: Iterable[str], host: str) -> KnownKeys:
    """What the lines of known_hosts files say of a host, by its name there: `name`, or `[name]:port` off port 22.

    A line that cannot be read says nothing, as for OpenSSH.
    """
    found: dict[str, list[paramiko.PKey]] = {"": [], "@revoked": [], "@cert-authority": []}
    for line in lines:
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or fields[0].startswith("#") or marker not in found:
            continue
        try:
            entry = HostKeyEntry.from_line(" ".join(fields[:3])) if _is_about(host, fields[0]) else None
        # What paramiko 3.4 to 5.1 raise for 4,000 keys with flipped bits or cut short.
        except (InvalidHostKey, paramiko.SSHException, ValueError, ArithmeticError):
            continue
        # paramiko fills a key that was cut short up with zeros: it would be another key, and so a changed one.
        if entry is not None and entry.key is not None and entry.key.get_base64() == fields[2]:
            found[marker].append(entry.key)
    revoked = found["@revoked"]
    return KnownKeys(
        tuple(key for key in found[""] if key not in revoked), tuple(revoked), certified=bool(found["@cert-authority"])
    )


def _is_about(host: str, names: str) -> bool:
    """Whether the names of a line fit the host: one does, and none that is negated (`!name`). Raises ValueError for a
    damaged hash."""
    patterns = names.split(",")
    excluded = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    return any(_fits(host, pattern) for pattern in patterns) and not any(_fits(host, pattern) for pattern in excluded)


def _fits(host: str, pattern: str) -> bool:
    """Whether one name of a line is the host's: literal, with `*` and `?`, or hashed (`HashKnownHosts yes`)."""
    if pattern.startswith("|1|"):
        _, _, salt, digest = pattern.split("|")
        made = [hmac.digest(base64.b64decode(salt), name.encode(), "sha1") for name in (host, host.lower())]
        return base64.b64decode(digest) in made
    # No fnmatch: to it, the brackets of `[name]:port` are a set of characters.
    wanted = "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in pattern.lower())
    return re.fullmatch(wanted, host.lower()) is not None


class _UntrustedHostKeyError(paramiko.SSHException):
    """Raised by the policies, so that an unknown or revoked key is told from other SSH failures by type."""

    def __init__(self, hostname: str, key: paramiko.PKey) -> None:
        super().__init__(f"untrusted host key of {hostname}")
        self.key = key


class _Refuse(paramiko.MissingHostKeyPolicy):
    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        raise _UntrustedHostKeyError(hostname, key)


class _PinOnce(paramiko.MissingHostKeyPolicy):
    """Trust on first use: append the key to known_hosts, so that from then on it is pinned. Never a revoked one."""

    def __init__(self, known_hosts: Path, revoked: Sequence[paramiko.PKey]) -> None:
        self.known_hosts = known_hosts
        self.revoked = revoked

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        if key in self.revoked:
            raise _UntrustedHostKeyError(hostname, key)
        with _pin_lock:
            self.known_hosts.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _append_line(self.known_hosts, f"{hostname} {key.get_name()} {key.get_base64()}")


def _append_line(path: Path, line: str) -> None:
    """Add a line to a file, also to one whose last line was left without an end."""
    with path.open("a+b") as file:
        unended = b""
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            unended = b"" if file.read(1) == b"\n" else b"\n"
        file.write(unended + line.encode() + b"\n")


@contextlib.contextmanager
def _in_turn(jump_host: str, patience_s: float) -> Iterator[None]:
    """Wait until fewer than JUMP_LOGINS others log in at the jump host; but not for ever, so that one that is off
    costs two time-outs at most, however many nodes are behind it."""
    turns = _jump_turns.setdefault(jump_host, threading.Semaphore(JUMP_LOGINS))
    held = turns.acquire(timeout=patience_s)
    try:
        yield
    finally:
        if held:
            turns.release()


def fingerprint(key: paramiko.PKey) -> str:
    """The key's fingerprint as `ssh-keygen -l` prints it: `SHA256:…`."""
    return key.fingerprint


class SshConnection:
    """One node's SSH connection, opened once and shared by everything that talks to the node.

    Channels may be opened from several threads at once (paramiko's transport is thread-safe). When it is lost it is
    opened again once, for whoever only reads (`reading`); never after `close`, and never for what changes something.
    """

    def __init__(self, node: Node, ssh: SshDefaults, timeouts: Timeouts, *, accept_new_host_keys: bool = False) -> None:
        self.node = node.name
        self._command_timeout_s = timeouts.command_s
        self._connect_timeout_s = timeouts.connect_s
        self._known_hosts = ssh.known_hosts or Path("~/.ssh/known_hosts").expanduser()
        self._own_known_hosts = ssh.known_hosts is not None
        self._accept_new_host_keys = accept_new_host_keys
        self._opening = threading.Lock()
        self._closed = True
        self._may_open_again = True
        config = _ssh_config(ssh.config)
        key = node.key or ssh.key
        connect_kwargs = {"key_filename": str(key), "look_for_keys": False} if key else {}
        jump = node.jump or ssh.jump
        gateway = fabric.Connection(jump, config=config, connect_kwargs=dict(connect_kwargs)) if jump else None
        self._connection = fabric.Connection(
            node.host,
            user=node.user or ssh.user,
            port=node.port or ssh.port,
            config=config,
            gateway=gateway,
            connect_kwargs=connect_kwargs,
        )
        for hop in self._hops():  # those of ssh_config's ProxyJump too, which Fabric makes by itself
            _prepare(hop, timeouts.connect_s)

    @property
    def command_timeout_s(self) -> float:
        """How long one command may take, in seconds (timeouts.command_s)."""
        return self._command_timeout_s

    @property
    def target(self) -> str:
        """user@host:port, as connected to (ssh_config applied)."""
        return _address(self._connection)

    @property
    def is_open(self) -> bool:
        """Whether the connection stands, as far as this end knows: a machine without power says nothing."""
        transport = self.transport
        return transport is not None and transport.is_authenticated()

    def open(self) -> None:
        """Connect and authenticate, jump hosts first. What it opened it closes again when it fails.

        Raises ConnectError (HostKeyError for host keys) with the fix, ConnectionLostError when the node hangs up
        right after the login.
        """
        self._closed = False
        try:
            self._open_hops()
        except ClusterctlError:
            self.close()
            raise

    def reading(self, operation: Callable[[], T]) -> T:
        """Do what changes nothing on the node; once more when the connection was lost and could be opened again.

        Raises what `operation` raises: when the connection cannot be opened again, its first error.
        """
        with self._opening:  # while another thread opens it again, there is nothing to read over
            before = self.transport
        try:
            return operation()
        except ConnectionLostError:
            if not self._opened_again(before):
                raise
        return operation()

    def _opened_again(self, lost: OrderedTransport | None) -> bool:
        """Whether there is a new connection in place of the lost one: opened here, or meanwhile by another thread.

        Each is tried once. Its host keys must be known by now, also where new ones were accepted.
        """
        with self._opening:
            if lost is None or self._closed or not self._may_open_again:
                return False
            if self.transport is not lost:
                return self.is_open
            if not lost.ended():  # what was lost is a command, not the connection
                return False
            self._close_hops()
            self._accept_new_host_keys = False
            try:
                self._open_hops()
            except ClusterctlError:
                self._close_hops()
                return False
            if self._closed:  # meanwhile: `close` waits for nobody
                self._close_hops()
            return self.is_open

    def _open_hops(self) -> None:
        for hop in reversed(tuple(self._hops())):
            self._open_hop(hop)
        self._transport.set_keepalive(KEEPALIVE_S)

    def _open_hop(self, hop: fabric.Connection) -> None:
        is_jump = hop is not self._connection
        turn = _in_turn(_address(hop), self._connect_timeout_s) if is_jump else contextlib.nullcontext()
        known = self._known_keys(hop)
        self._make_strict(hop, known)
        try:
            with turn:
                hop.open()
        except (_UntrustedHostKeyError, paramiko.BadHostKeyException) as error:
            raise self._untrusted(hop, known, error) from error
        except (paramiko.SSHException, OSError, EOFError, ValueError) as error:
            raise self._not_opened(hop, error) from error
        _end_when_unanswered(hop.client.get_transport())

    def _untrusted(
        self, hop: fabric.Connection, known: KnownKeys, error: _UntrustedHostKeyError | paramiko.BadHostKeyException
    ) -> HostKeyError:
        where = self._shown(hop)
        showed = f"{error.key.get_name()} {fingerprint(error.key)}"
        if error.key in known.revoked:
            return HostKeyError(
                self.node,
                f"{where}: its host key is revoked by an @revoked line in "
                f"{' or '.join(map(str, self._known_hosts_files()))} (it showed {showed})",
                hint="whoever has that key can pose as the machine: give the machine new host keys, then run once with "
                "--accept-new-host-keys",
            )
        if isinstance(error, paramiko.BadHostKeyException):
            return HostKeyError(
                self.node,
                f"{where}: its host key is NOT the one in {self._known_hosts}: expected "
                f"{fingerprint(error.expected_key)}, it showed {fingerprint(error.key)}",
                hint="either the machine was reinstalled or something answers in its place; when you know it was "
                f"reinstalled: ssh-keygen -R '{_known_as(hop)}' -f {self._known_hosts}, then --accept-new-host-keys",
            )
        certified = "host certificates (@cert-authority) are not supported here: " if known.certified else ""
        return HostKeyError(
            self.node,
            f"{where}: its host key is not in {self._known_hosts} (it showed {showed})",
            hint=f"{certified}compare that fingerprint with the machine's own (on its console: "
            "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then run once with --accept-new-host-keys",
        )

    def _not_opened(self, hop: fabric.Connection, error: Exception) -> ConnectError:
        if isinstance(hop.gateway, fabric.Connection) and hop.client.get_transport() is None:
            return self._not_passed_on(hop, error)
        match error:
            case paramiko.PasswordRequiredException():
                what, hint = "the private key is encrypted", "load it into an agent: ssh-add KEYFILE"
            case paramiko.AuthenticationException():
                what = f"SSH login refused ({error})"
                hint = (
                    f"check the user and key of this node in the inventory; try: ssh {_address(hop).rsplit(':', 1)[0]}"
                )
            case socket.gaierror():
                what, hint = f"cannot resolve the host name ({error.strerror})", "check `host`"
            case TimeoutError():
                what = f"no answer within {self._connect_timeout_s:g} s"
                hint = "is the machine on, and is its SSH port reachable from here?"
            case paramiko.ssh_exception.NoValidConnectionsError():
                reasons = {str(getattr(reason, "strerror", None) or reason) for reason in error.errors.values()}
                what = f"cannot connect ({', '.join(sorted(reasons))})"
                hint = "is the machine on, and is sshd running on that port?"
            case _:
                what, hint = f"SSH failed ({error or type(error).__name__})", f"ssh -v {_address(hop)}"
        return ConnectError(self.node, f"{self._shown(hop)}: {what}", hint=hint)

    def _not_passed_on(self, hop: fabric.Connection, error: Exception) -> ConnectError:
        """The jump host was reached, but no connection from there to the next machine came about."""
        if isinstance(error, paramiko.ChannelException):
            what = f"the jump host cannot connect to it ({error.text})"
            hint = (
                "is the machine on, and is sshd running on that port? Does the jump host allow forwarding "
                "(AllowTcpForwarding)?"
            )
        elif hop.gateway.is_connected:  # nothing else raises while it stands: paramiko has no type for this
            what = f"no answer within {self._connect_timeout_s:g} s"
            hint = "is the machine on, and is its SSH port reachable from the jump host?"
        else:
            what = f"the jump host hung up ({error or type(error).__name__})"
            hint = f"ssh -v {_address(hop.gateway)}"
        return ConnectError(self.node, f"{self._shown(hop)}: {what}", hint=hint)

    def _shown(self, hop: fabric.Connection) -> str:
        """Which machine on the way it is, and through which jump host it is reached."""
        name = _address(hop) if hop is self._connection else f"jump host {_address(hop)}"
        through = hop.gateway
        return f"{name} through jump host {_address(through)}" if isinstance(through, fabric.Connection) else name

    def close(self) -> None:
        """Close the connection and its jump hosts', for good; harmless when it is not open."""
        self._closed = True
        self._close_hops()

    def _close_hops(self) -> None:
        for hop in self._hops():
            hop.client.close()

    @property
    def transport(self) -> OrderedTransport | None:
        """What carries the channels now; None when it is closed. It is told apart from one that was opened later."""
        transport: OrderedTransport | None = self._connection.client.get_transport()
        return transport

    @property
    def _transport(self) -> OrderedTransport:
        transport = self.transport
        # One that is being opened again is there before it has logged in; sshd would hang up on a channel then.
        if transport is not None and transport.is_authenticated():
            return transport
        if transport is not None and transport.ended():
            raise self._hung_up("cannot be used any more", transport)
        raise ConnectionLostError(self.node, f"{self.target}: the SSH connection is closed")

    def _hops(self) -> Iterator[fabric.Connection]:
        hop = self._connection
        while isinstance(hop, fabric.Connection):
            yield hop
            hop = hop.gateway

    def _known_hosts_files(self) -> list[Path]:
        files = [self._known_hosts] if self._own_known_hosts else [SYSTEM_KNOWN_HOSTS, self._known_hosts]
        return [file for file in files if file.exists()]

    def _known_keys(self, hop: fabric.Connection) -> KnownKeys:
        """Raises ConnectError when a known_hosts file is there but cannot be read."""
        try:
            lines = [line for file in self._known_hosts_files() for line in file.read_bytes().splitlines()]
        except OSError as error:
            raise ConnectError(
                self.node,
                f"{self._shown(hop)}: cannot read {error.filename}: {error.strerror}",
                hint="without known_hosts no host key can be checked; ssh.known_hosts names another file",
            ) from error
        return known_keys((line.decode(errors="replace") for line in lines), _known_as(hop))

    def _make_strict(self, hop: fabric.Connection, known: KnownKeys) -> None:
        accept = self._accept_new_host_keys
        hop.client.get_host_keys().clear()  # of an earlier opening: the files may say something else by now
        hop.client.set_missing_host_key_policy(_PinOnce(self._known_hosts, known.revoked) if accept else _Refuse())
        first: dict[str, paramiko.PKey] = {}
        for key in known.trusted:  # paramiko holds one key of each type
            first.setdefault(key.get_name(), key)
        for kind, key in first.items():
            hop.client.get_host_keys().add(_known_as(hop), kind, key)

    def session(self, argv: Sequence[str], *, timeout_s: float | None = None) -> paramiko.Channel:
        """Start a command and return its channel. The one place where argv becomes a quoted command line."""
        timeout_s = timeout_s or self._command_timeout_s
        transport = self._transport
        try:
            channel = transport.open_session(timeout=timeout_s)
            channel.settimeout(timeout_s)
            channel.exec_command(shlex.join(argv))
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self.lost(f"could not start `{argv[0]}`", error, transport) from error
        return channel

    def connect_to(self, address: str, port: int, *, timeout_s: float) -> paramiko.Channel:
        """A TCP connection from the node to address:port, carried by this connection (`direct-tcpip`).

        Raises OSError when the far port refuses or the node's sshd forbids forwarding, TimeoutError at the deadline.
        """
        transport = self._transport
        try:
            channel = transport.open_channel("direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=timeout_s)
        except paramiko.ChannelException as error:
            if error.code == 1:  # SSH_OPEN_ADMINISTRATIVELY_PROHIBITED (RFC 4254, 5.1)
                raise PermissionError(
                    f"sshd on {self.node} forbids TCP forwarding (AllowTcpForwarding); the API is asked through it"
                ) from error
            raise ConnectionRefusedError(f"{address}:{port} refused the connection") from error
        except (paramiko.SSHException, EOFError) as error:
            if transport.ended():
                raise ConnectionResetError(self._hung_up("no way to the API", transport).message) from error
            raise TimeoutError(f"{address}:{port} did not answer within {timeout_s:g} s") from error
        channel.settimeout(timeout_s)
        return channel

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float | None = None, read_only: bool = False
    ) -> Completed:
        """Run a command to its end. A non-zero exit code is a result, not an error.

        One that is `read_only` is run again, with the whole `timeout_s`, when the connection was lost (see `reading`).
        Raises CommandTimeoutError at the deadline, ConnectionLostError when the connection breaks.
        """
        timeout_s = timeout_s or self._command_timeout_s
        if read_only:
            return self.reading(lambda: self._run(argv, stdin, timeout_s))
        return self._run(argv, stdin, timeout_s)

    def _run(self, argv: Sequence[str], stdin: bytes, timeout_s: float) -> Completed:
        deadline = time.monotonic() + timeout_s
        channel = self.session(argv, timeout_s=timeout_s)
        stderr: list[bytes] = []
        drain = threading.Thread(target=_drain_stderr, args=(channel, stderr), daemon=True)
        drain.start()
        try:
            if stdin:
                channel.sendall(stdin)
            end_input(channel)
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
            raise self.lost(f"lost during `{argv[0]}`", error, transport_of(channel)) from error
        finally:
            channel.close()
        if not channel.status_event.is_set() or channel.exit_status == -1:
            raise self.lost(f"`{argv[0]}` ended without an exit code", None, transport_of(channel))
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
            end_input(channel)
            for line in channel.makefile("r"):
                last = line.rstrip("\n")
                yield last
            channel.status_event.wait(silence_s)
        except TimeoutError as error:
            raise CommandTimeoutError(
                self.node, f"`{argv[0]}` said nothing for {silence_s:g} s", hint="does a file system on it hang?"
            ) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self.lost(f"lost during `{argv[0]}`", error, transport_of(channel)) from error
        finally:
            channel.close()
        if channel.exit_status == -1:
            raise self.lost(f"`{argv[0]}` ended without an exit code", None, transport_of(channel))
        if channel.exit_status != 0:
            raise HostError(self.node, f"`{argv[0]}` ended with exit code {channel.exit_status}: {last}")

    def converse(self, argv: Sequence[str], *, stdin: bytes) -> Conversation:
        """Start a command that is then spoken with line by line. `stdin` is what it is sent first.

        From then on the connection is not opened again when it is lost: what such a command holds, a lock, is lost
        with it, and nothing may go on as if it were held.
        """
        self._may_open_again = False
        conversation = Conversation(self.node, argv[0], self.session(argv))
        conversation.send(stdin)
        return conversation

    def lost(
        self, what: str, error: BaseException | None, transport: OrderedTransport | None = None
    ) -> ConnectionLostError:
        """The error for what broke while this was done: over `transport`, where a new one may be in its place by now.

        Says whether it was the whole connection, and what sshd said when it ended that.
        """
        transport = transport or self.transport
        if transport is not None and transport.ended():
            return self._hung_up(what, transport)
        detail = f" ({error or type(error).__name__})" if error is not None else ""
        return ConnectionLostError(
            self.node, f"{self.target}: {what}{detail}", hint="is the machine still up? then run the command again"
        )

    def _hung_up(self, what: str, transport: OrderedTransport) -> ConnectionLostError:
        """The error for a connection that is gone."""
        where = self._shown(self._connection)
        if self._closed:
            return ConnectionLostError(self.node, f"{where}: {what}: the SSH connection is closed")
        return ConnectionLostError(
            self.node,
            f"{where}: {what}: {_how_it_ended(transport)}",
            hint="is the machine still up? on the node: journalctl -u ssh -n 50; then run the command again",
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
            raise self._lost(f"lost during `{self._what}`", error) from error

    def end_input(self) -> None:
        """Close its stdin."""
        try:
            end_input(self._channel)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._lost(f"lost during `{self._what}`", error) from error

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
            raise self._lost(f"`{self._what}` ended without an exit code", None)
        return self._channel.exit_status

    def close(self) -> None:
        """Give its streams up. The command itself may go on."""
        self._channel.close()

    def _lost(self, what: str, error: BaseException | None) -> ConnectionLostError:
        return self._ssh.lost(what, error, transport_of(self._channel))


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


def _address(hop: fabric.Connection) -> str:
    return f"{hop.user}@{hop.host}:{hop.port}"


def _how_it_ended(transport: OrderedTransport) -> str:
    """What ended a connection, in words: sshd's own, where it sent some."""
    if transport.farewell is not None:
        said = "".join(character for character in transport.farewell if character.isprintable())
        return f"sshd closed the SSH connection: {said[:FAREWELL_LENGTH] or 'without a reason'}"
    if transport.cause is None or isinstance(transport.cause, EOFError):
        return "the SSH connection was closed from the other side without a word"
    return f"the SSH connection broke ({transport.cause})"


def _known_as(hop: fabric.Connection) -> str:
    """The name under which known_hosts has the host, and paramiko looks for it."""
    return hop.host if int(hop.port) == paramiko.config.SSH_PORT else f"[{hop.host}]:{hop.port}"


def _end_when_unanswered(transport: paramiko.Transport | None) -> None:
    """A machine that is cut off closes nothing. Behind a jump host it is a channel, and no socket, that leads to it."""
    sock = transport.sock if transport is not None else None
    if isinstance(sock, socket.socket) and hasattr(socket, "TCP_USER_TIMEOUT"):
        with contextlib.suppress(OSError):  # it hung up right after the login: whoever asks next is told
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_S * 1000)


def _prepare(hop: fabric.Connection, connect_s: float) -> None:
    """Give every step of opening the connection, and a machine behind it, this many seconds; and our transport."""
    # Fabric truncates to whole seconds, and 0 would mean «no time-out».
    hop.connect_timeout = max(1, round(connect_s))
    # A jump host's channel to the machine behind it waits for an hour by default (paramiko 5.1 transport.py).
    limits = dict.fromkeys(("banner_timeout", "auth_timeout", "channel_timeout"), connect_s)
    hop.connect_kwargs = {**hop.connect_kwargs, **limits, "transport_factory": OrderedTransport}


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
