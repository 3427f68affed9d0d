"""A node's connection, whatever it is made of: commands run on the node, and TCP connections that start there.

What it is made of is in two places: ssh/connection.py, over SSH, and local/connection.py, for this machine itself.
Either hands out channels, and everything else is done with these.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import paramiko

from clusterctl.hosts.ssh.errors import CommandTimeoutError, ConnectionLostError, HostError
from clusterctl.hosts.ssh.streams import Completed, Conversation, SshCommand, WindowSize, drain_stderr, read_until
from clusterctl.hosts.ssh.transport import OrderedTransport, end_input, transport_of

T = TypeVar("T")


class Stream(Protocol):
    """As much of a TCP connection as is needed of it."""

    def settimeout(self, value: float | None, /) -> None:
        """Seconds for each of the others, which raise TimeoutError then."""

    def recv(self, size: int, /) -> bytes:
        """Some bytes; none at the end."""

    def sendall(self, data: bytes, /) -> None:
        """Send all of them."""

    def close(self) -> None:
        """Close it."""


class Connection(ABC):
    """One node's connection, opened once and shared by everything that talks to the node.

    Channels may be opened from several threads at once.
    """

    node: str
    """The node's name."""

    login_prints: bytes = b""
    """What the login printed before a command's own output, if anything: ~/.bashrc does, where nobody took care."""

    @property
    @abstractmethod
    def command_timeout_s(self) -> float:
        """How long one command may take, in seconds (timeouts.command_s)."""

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether the connection stands, as far as this end knows: a machine without power says nothing."""

    @property
    @abstractmethod
    def transport(self) -> OrderedTransport | None:
        """What carries the channels now; None where nothing does, or it is closed."""

    @abstractmethod
    def open(self) -> None:
        """Open it. Raises ConnectError, ConnectionLostError."""

    @abstractmethod
    def close(self) -> None:
        """Close it, for good; harmless when it is not open."""

    @abstractmethod
    def reading(self, operation: Callable[[], T]) -> T:
        """Do what changes nothing on the node; once more when the connection was lost and could be opened again.

        Raises what `operation` raises: when the connection cannot be opened again, its first error.
        """

    @abstractmethod
    def session(self, argv: Sequence[str], *, timeout_s: float | None = None, merged: bool = False) -> paramiko.Channel:
        """Start a command and return its channel. `merged`: its stderr comes on its stdout."""

    @abstractmethod
    def shell(self, term: str, size: WindowSize) -> SshCommand:
        """The login's own shell on a new terminal of this type ($TERM) and size."""

    @abstractmethod
    def connect_to(self, address: str, port: int, *, timeout_s: float) -> Stream:
        """A TCP connection from the node to address:port.

        Raises OSError when the far port refuses, TimeoutError at the deadline.
        """

    @abstractmethod
    def lost(
        self, what: str, error: BaseException | None, transport: OrderedTransport | None = None
    ) -> ConnectionLostError:
        """The error for what broke while this was done.

        It broke over `transport`, where a new one may be in its place by now.
        """

    @abstractmethod
    def keep_this_one(self) -> None:
        """From now on it is not opened again when it is lost: what is held over it is lost with it."""

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float | None = None, read_only: bool = False
    ) -> Completed:
        """Run a command to its end. A non-zero exit code is a result, not an error.

        One that is `read_only` is run again, with the whole `timeout_s`, when the connection was lost (see `reading`).
        Raises CommandTimeoutError at the deadline, ConnectionLostError when the connection breaks.
        """
        timeout_s = timeout_s or self.command_timeout_s
        if read_only:
            return self.reading(lambda: self._run(argv, stdin, timeout_s))
        return self._run(argv, stdin, timeout_s)

    def _run(self, argv: Sequence[str], stdin: bytes, timeout_s: float) -> Completed:
        deadline = time.monotonic() + timeout_s
        channel = self.session(argv, timeout_s=timeout_s)
        stderr: list[bytes] = []
        drain = threading.Thread(target=drain_stderr, args=(channel, stderr), daemon=True)
        drain.start()
        try:
            if stdin:
                channel.sendall(stdin)
            end_input(channel)
            stdout = read_until(channel, deadline)
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

    def lines(self, argv: Sequence[str], *, stdin: bytes = b"", silence_s: float | None = None) -> Iterator[str]:
        """Lines of a long command's output (stderr among them) as they come, until it ends with exit code 0.

        Raises CommandTimeoutError when nothing comes for `silence_s`, HostError for another exit code.
        """
        silence_s = silence_s or self.command_timeout_s
        channel = self.session(argv, timeout_s=silence_s, merged=True)
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
        self.keep_this_one()
        conversation = Conversation(self.node, argv[0], self.session(argv, merged=True))
        conversation.send(stdin)
        return conversation
