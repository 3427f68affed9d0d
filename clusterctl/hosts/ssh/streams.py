"""Streams of remote commands: read to their end, as they come, or line by line."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import paramiko

from clusterctl.hosts.ssh.errors import CommandTimeoutError, ConnectionLostError
from clusterctl.hosts.ssh.transport import OrderedTransport, end_input, transport_of

MAX_OUTPUT_BYTES = 32 * 1024 * 1024
"""A remote command that prints more than this is broken; nothing that clusterctl runs comes near."""


CHUNK_BYTES = 64 * 1024
"""How much of a stream is taken at once: twice an SSH packet's payload (32 KiB, RFC 4253, 6.1)."""


TURN_S = 0.5
"""Seconds after which a wait for output looks at its deadline and at interrupts."""


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


class Losable(Protocol):
    """As much of a connection as a command on it needs."""

    node: str

    @property
    def command_timeout_s(self) -> float:
        """How long one command may take, in seconds."""

    def lost(
        self, what: str, error: BaseException | None, transport: OrderedTransport | None = None
    ) -> ConnectionLostError:
        """The error for what broke while this was done."""


class SshCommand:
    """A command that runs on the node. Its methods raise ConnectionLostError when the connection breaks.

    Input and output may be used from two threads; nobody else may read.
    """

    def __init__(self, ssh: Losable, channel: paramiko.Channel, what: str) -> None:
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
    """A running remote command, stderr merged with stdout: lines go in, lines come out. One thread reads, any may
    send."""

    def __init__(self, node: str, name: str, channel: paramiko.Channel) -> None:
        self._node, self._name, self._channel = node, name, channel
        self._sending = threading.Lock()

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


def read_until(channel: paramiko.Channel, deadline: float) -> bytes:
    """All of stdout. Raises TimeoutError at the deadline (time.monotonic()), OSError for more than MAX_OUTPUT_BYTES."""
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


def drain_stderr(channel: paramiko.Channel, into: list[bytes]) -> None:
    """Read stderr beside stdout: a full stderr window would block the remote command."""
    try:
        while chunk := channel.recv_stderr(65536):
            into.append(chunk)
    except (OSError, EOFError):
        return
