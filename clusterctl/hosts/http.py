"""The door to HTTP: httpx over the node's SSH connection.

vLLM's API may listen on an address that the operator's machine cannot reach, so requests travel as
`direct-tcpip` channels of the connection that is open anyway: no local port, no second process.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx
import paramiko

from clusterctl.hosts.ssh import SshConnection


class _ChannelStream(httpcore.NetworkStream):
    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._channel.settimeout(timeout)
        try:
            return self._channel.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout(f"no answer within {timeout:g} s") from error
        except (OSError, EOFError) as error:
            raise httpcore.ReadError(str(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._channel.settimeout(timeout)
        try:
            self._channel.sendall(buffer)
        except TimeoutError as error:
            raise httpcore.WriteTimeout(f"not sent within {timeout:g} s") from error
        except (OSError, EOFError) as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._channel.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        raise NotImplementedError("TLS over an SSH channel")

    def get_extra_info(self, info: str) -> Any:
        return None


class _SshBackend(httpcore.NetworkBackend):
    def __init__(self, ssh: SshConnection) -> None:
        self._ssh = ssh

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            return _ChannelStream(self._ssh.connect_to(host, port, timeout_s=timeout or 10))
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error


def client_over_ssh(ssh: SshConnection, base_url: str, *, timeout_s: float) -> httpx.Client:
    """An httpx client whose connections start on the node that `ssh` reaches. Raises httpx's errors, typed."""
    transport = httpx.HTTPTransport()
    # httpx has no parameter for httpcore's documented network_backend; this attribute is where it keeps its pool.
    transport._pool = httpcore.ConnectionPool(network_backend=_SshBackend(ssh), max_connections=4)
    return httpx.Client(base_url=base_url, timeout=timeout_s, transport=transport, trust_env=False)
