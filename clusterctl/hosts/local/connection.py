"""The door to this machine itself, for a node whose host is `localhost`: processes and sockets, no SSH."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import paramiko

from clusterctl.hosts.connection import Connection, Stream
from clusterctl.hosts.local.channel import LocalChannel, LocalShell
from clusterctl.hosts.ssh.errors import ConnectError, ConnectionLostError
from clusterctl.hosts.ssh.streams import SshCommand, WindowSize
from clusterctl.hosts.ssh.transport import OrderedTransport
from clusterctl.inventory.model import Node, Timeouts

T = TypeVar("T")


class LocalConnection(Connection):
    """This machine, as the login that runs clusterctl. It is never lost."""

    def __init__(self, node: Node, timeouts: Timeouts) -> None:
        self.node = node.name
        self._timeouts = timeouts
        self._open = False
        self._channels: list[LocalChannel] = []
        self._lock = threading.Lock()

    @property
    def command_timeout_s(self) -> float:
        """How long one command may take, in seconds (timeouts.command_s)."""
        return self._timeouts.command_s

    @property
    def is_open(self) -> bool:
        """Whether it was opened, and not closed."""
        return self._open

    @property
    def transport(self) -> OrderedTransport | None:
        """Nothing carries its channels."""
        return None

    def open(self) -> None:
        """Raises ConnectError where there is no shell, without which no command of clusterctl's runs."""
        if shutil.which("sh") is None:
            raise ConnectError(self.node, f"{self.node}: this machine has no `sh` in its PATH")
        self._open = True

    def close(self) -> None:
        """Hang up on every command that still runs."""
        self._open = False
        with self._lock:
            channels, self._channels = self._channels, []
        for channel in channels:
            channel.close()

    def reading(self, operation: Callable[[], T]) -> T:
        """Do it: there is no connection that could be lost over it."""
        return operation()

    def session(self, argv: Sequence[str], *, timeout_s: float | None = None, merged: bool = False) -> paramiko.Channel:
        """Start a command and return its channel. `merged`: its stderr comes on its stdout."""
        if not self._open:
            raise ConnectionLostError(self.node, f"{self.node}: the connection is closed")
        try:
            channel = LocalChannel(argv)
        except OSError as error:
            raise self.lost(f"could not start `{argv[0]}`", error) from error
        channel.settimeout(timeout_s or self.command_timeout_s)
        channel.set_combine_stderr(merged)
        return self._kept(channel)

    def shell(self, term: str, size: WindowSize) -> SshCommand:
        """The login's own shell on a new terminal of this type ($TERM) and size."""
        try:
            channel = LocalShell([pwd.getpwuid(os.getuid()).pw_shell or "/bin/sh", "-l"], term, size.columns, size.rows)
        except (OSError, KeyError) as error:
            raise self.lost("could not start a shell", error) from error
        return SshCommand(self, self._kept(channel), "shell")

    def connect_to(self, address: str, port: int, *, timeout_s: float) -> Stream:
        """A TCP connection to address:port. Raises OSError when it refuses, TimeoutError at the deadline."""
        return socket.create_connection((address, port), timeout=timeout_s)

    def lost(
        self, what: str, error: BaseException | None, transport: OrderedTransport | None = None
    ) -> ConnectionLostError:
        """The error for what broke while this was done."""
        detail = f" ({error or type(error).__name__})" if error is not None else ""
        return ConnectionLostError(self.node, f"{self.node} (this machine): {what}{detail}")

    def keep_this_one(self) -> None:
        """It is never opened again."""

    def _kept(self, channel: LocalChannel) -> LocalChannel:
        """To be closed with the connection; those that have ended are let go."""
        with self._lock:
            self._channels = [other for other in self._channels if not other.closed]
            self._channels.append(channel)
        return channel
