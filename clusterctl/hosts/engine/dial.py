"""The engine's API over SSH: each HTTP connection is a channel that runs `docker system dial-stdio` on the node."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import Any

import paramiko
import urllib3
from docker.transport.basehttpadapter import BaseHTTPAdapter

from clusterctl.hosts.connection import Connection


class _ChannelConnection(urllib3.connection.HTTPConnection):
    def __init__(self, ssh: Connection, argv: Sequence[str], timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._ssh = ssh
        self._argv = argv
        self._timeout_s = timeout_s
        self._channel: paramiko.Channel | None = None

    def connect(self) -> None:
        # A paramiko channel has the socket methods that http.client uses (makefile, sendall, close).
        # Kept beside `sock`, which http.client lets go of before anybody can ask why there was no answer.
        self.sock = self._channel = self._ssh.session(self._argv, timeout_s=self._timeout_s)

    def close(self) -> None:
        """Close the channel; when dial-stdio has ended, after its exit code has come, which paramiko drops then."""
        if self._channel is not None and self._channel.eof_received:
            self._channel.status_event.wait(2)
        super().close()

    def ended_because(self) -> str:
        """What dial-stdio said when it ended instead of answering; empty when it said nothing and no failure."""
        channel = self._channel
        if channel is None:
            return ""
        channel.settimeout(2)
        try:
            stderr = channel.recv_stderr(4096).decode(errors="replace").strip()
        except OSError:
            stderr = ""
        if not stderr and channel.exit_status <= 0:  # -1: no exit code came
            return ""
        code = f" with exit code {channel.exit_status}" if channel.exit_status >= 0 else ""
        return f"`{' '.join(self._argv)}` ended{code}" + (f": {stderr}" if stderr else "")


class ChannelPool(urllib3.connectionpool.HTTPConnectionPool):
    """The SDK's pool of connections, each of them a channel."""

    scheme = "http"

    def __init__(self, ssh: Connection, argv: Sequence[str], timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s, maxsize=8)
        self._open = lambda: _ChannelConnection(ssh, argv, timeout_s)
        self.last: _ChannelConnection | None = None

    def _new_conn(self) -> _ChannelConnection:
        self.last = self._open()  # type: ignore[no-untyped-call]
        return self.last

    def _get_conn(self, timeout: float | None = None) -> Any:
        # urllib3 checks a pooled connection with select() on fileno(), which a channel answers with a new pipe each
        # time (docker-py overrides this for the same reason); whether the channel is open is known without it.
        try:
            connection = self.pool.get(block=False) if self.pool is not None else None
        except queue.Empty:
            connection = None
        if connection is not None and getattr(connection.sock, "closed", True):
            connection = None
        return connection or self._new_conn()


class SshAdapter(BaseHTTPAdapter):
    """What the SDK is mounted on: one pool for everything."""

    def __init__(self, ssh: Connection, argv: Sequence[str], timeout_s: float) -> None:
        super().__init__()
        self.pool = ChannelPool(ssh, argv, timeout_s)

    def get_connection(self, url: str | bytes, proxies: Any = None) -> Any:
        """The pool, whatever the URL."""
        return self.pool

    def close(self) -> None:
        """Close its channels."""
        self.pool.close()
        super().close()
