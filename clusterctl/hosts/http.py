"""The door to HTTP: httpx over the node's SSH connection.

vLLM's API may listen on an address that the operator's machine cannot reach, so requests travel as
`direct-tcpip` channels of the connection that is open anyway: no local port, no second process.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import httpcore
import httpx

from clusterctl.hosts.connection import Connection, Stream

T = TypeVar("T")

TLS_RECORD_BYTES = 65536
"""Read at once from the channel; a TLS record is at most 16 KiB (RFC 8446, 5.1)."""
MAX_CONNECTIONS = 8
"""At once, of one client: channels of the one SSH connection (sshd's MaxSessions does not count them)."""
FIRST_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class _ChannelStream(httpcore.NetworkStream):
    def __init__(self, channel: Stream) -> None:
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
        return _TlsStream(self, ssl_context, server_hostname, timeout)

    def get_extra_info(self, info: str) -> Any:
        return None


class _TlsStream(httpcore.NetworkStream):
    """TLS in memory over another stream: an SSH channel is no socket, which `ssl` could wrap."""

    def __init__(
        self,
        below: httpcore.NetworkStream,
        context: ssl.SSLContext,
        server_hostname: str | None,
        timeout: float | None,
    ) -> None:
        self._below = below
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=server_hostname)
        try:
            self._drive(self._tls.do_handshake, timeout)
        except ssl.SSLCertVerificationError as error:
            below.close()
            raise httpcore.ConnectError(
                f"the API showed a TLS certificate that is not accepted ({error.verify_message}): only the one in its "
                "container's ssl-certfile is; when that was renewed, the server must be restarted"
            ) from error
        except (ssl.SSLError, httpcore.NetworkError) as error:
            below.close()
            raise httpcore.ConnectError(f"no TLS with the API: {error}") from error

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return self._drive(lambda: self._tls.read(max_bytes), timeout)
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLError as error:
            raise httpcore.ReadError(str(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            while buffer:
                written = self._drive(lambda: self._tls.write(buffer), timeout)  # noqa: B023 (called at once)
                buffer = buffer[written:]
        except ssl.SSLError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._below.close()

    def get_extra_info(self, info: str) -> Any:
        return self._tls if info == "ssl_object" else None

    def _drive(self, step: Callable[[], T], timeout: float | None) -> T:
        """One step of the protocol, with as many records to and fro as it needs, within `timeout` seconds in all."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._send(timeout)
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise httpcore.ReadTimeout(f"no answer within {timeout:g} s") from None
                self._receive(left)
            except ssl.SSLError:
                self._send(timeout)  # the alert that tells the other side why
                raise
            else:
                self._send(timeout)
                return result

    def _send(self, timeout: float | None) -> None:
        if self._to_send.pending:
            self._below.write(self._to_send.read(), timeout)

    def _receive(self, timeout: float | None) -> None:
        data = self._below.read(TLS_RECORD_BYTES, timeout)
        if data:
            self._received.write(data)
        else:
            self._received.write_eof()


def pinned(certificate: bytes) -> ssl.SSLContext:
    """TLS that trusts exactly the first certificate of a PEM file, which is the server's own.

    It was read over SSH from the very container that is asked, so nobody has to vouch for it: self-signed or signed by
    somebody whom this machine does not know, it is the one (hence a chain may end at it: PARTIAL_CHAIN). The name in it
    says nothing more, and is mostly not the private address that is asked. Only the first: the others of the file
    belong to authorities, and what else they signed is not our server. Raises ValueError for what is no certificate.
    """
    found = FIRST_CERTIFICATE.search(certificate.decode("ascii", errors="replace"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=found.group() if found else "")
    except (ssl.SSLError, ValueError) as error:
        raise ValueError("ssl-certfile holds no certificate in PEM form") from error
    return context


class _NodeBackend(httpcore.NetworkBackend):
    def __init__(self, ssh: Connection) -> None:
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


def client_over(
    connection: Connection,
    base_url: str,
    *,
    timeout_s: float,
    key: bytes | None = None,
    tls: ssl.SSLContext | None = None,
) -> httpx.Client:
    """An httpx client whose connections start on the node. Raises httpx's errors, typed.

    `key` is sent with each request as a bearer token. `tls` is what an https URL is trusted by (see `pinned`).
    """
    # An empty context: httpx would load all certificates of this machine for a pool that is not used.
    transport = httpx.HTTPTransport(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    # httpx has no parameter for httpcore's documented network_backend; this attribute is where it keeps its pool.
    transport._pool = httpcore.ConnectionPool(
        ssl_context=tls, network_backend=_NodeBackend(connection), max_connections=MAX_CONNECTIONS
    )
    headers = {} if key is None else {b"Authorization": b"Bearer " + key}
    return httpx.Client(base_url=base_url, headers=headers, timeout=timeout_s, transport=transport, trust_env=False)
