"""The API's port while no server listens there: the agent answers, 503 in the form of OpenAI's API, with Retry-After.

Agent and server listen on one port, which takes SO_REUSEPORT on both (children.py sets it on the server's). The agent
listens first and says to the kernel that the second listener gets every connection (a program of one instruction, Linux
4.6; socket(7), SO_ATTACH_REUSEPORT_CBPF). So the kernel hands over, both ways: from the moment at which the server
listens the agent gets no connection, and it gets the next one when the server has closed its socket, or has died.
Nothing is closed for that, so nothing is reset. vLLM binds long before it listens (0.32); until then it is no listener.

Where that cannot be had (another process holds the port, a server that cannot share it, no file of the certificate),
the port is closed while the server loads, as it would be without an agent. It never keeps a server from starting.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import math
import os
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .journal import Journal

ANSWERS_AS = "clusterctl-agent"
"""The header `Server` of these answers: nobody of ours takes one for the server's (clusterctl/agent/paths.py)."""
FIRST_START_S = 30
"""Retry-After while no start has been seen yet."""
BACKLOG = 1024
MAX_CONNECTIONS = 512
"""When there are more, the oldest goes."""
REQUEST_S = 5.0
"""For a client to say what it wants, and for TLS."""
LINGER_S = 2.0
"""For a client to take the answer while it still sends: closed at once, its own bytes would wipe the answer out."""
RETRY_S = 1.0
"""Between tries to listen: after a machine's start its address may take a while to be there."""
SO_ATTACH_REUSEPORT_CBPF = 51
SECOND = struct.pack("HBBI", 0x06, 0, 0, 1)
"""BPF_RET | BPF_K, 1: the second socket of the group, in order of listen(2). Without one the kernel ignores it."""
LISTENING = "0A"
"""TCP_LISTEN, as /proc/net/tcp shows it."""

COMES = "the server is being started"
GAVE_UP = "the server has failed, and is not started again before an operator has looked at it"
ENDED = "the server was stopped by an operator"
MESSAGES: Mapping[str, str] = {"failed": GAVE_UP, "drained": ENDED, "stopping": ENDED, "stopped": ENDED}
"""Phases from which no server comes back by itself, and what is said in them."""


class Unavailable:
    """Answers on the API's port for as long as nobody else does."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.where: Mapping[str, Any] = {}
        """{"host", "port", "certfile", "keyfile"} of the API; empty on a node without one."""
        self.down_since = time.monotonic()
        self.server: asyncio.Server | None = None
        self.tls: ssl.SSLContext | None = None
        self.may_open = True
        self.said = ""
        """Why the port is closed, as it was last written down."""
        self.refused = 0
        """Requests answered so far, in this life of the agent."""
        self.answering: dict[asyncio.Task[None], None] = {}

    @property
    def named(self) -> str:
        """The port, as the server's process is told of it."""
        return f"{self.where['host']}:{self.where['port']}" if self.where else "-"

    # When it listens.

    async def keep(self) -> None:
        """Listen as soon as that is possible, whenever no server is on its way."""
        while True:
            if self.where and self.may_open and self.server is None:
                await self._open()
            await asyncio.sleep(RETRY_S)

    async def open(self, where: Mapping[str, Any] | None) -> None:
        """No server is on its way: listen there, with the certificate as it is now."""
        if dict(where or {}) != self.where:
            self.close()
            self.where = dict(where or {})
        self.may_open = True
        if self.server is not None and self.tls is not None:
            with contextlib.suppress(OSError):  # ssl.SSLError among them; the old one goes on
                self._load(self.tls)
        elif self.where and self.server is None:
            await self._open()

    def hold(self) -> None:
        """A server is on its way: what does not listen by now does not begin to."""
        self.may_open = False

    def stays(self) -> bool:
        """Whether it listens, and a server may listen beside it."""
        return self.server is not None and not self.other_listens()

    def close(self) -> None:
        """Leave the port to the server."""
        if self.server is not None:
            self.server.close()
            self.server = None

    async def _open(self) -> None:
        try:
            self.tls = self._context()
            listener = self._listener()
            self.server = await asyncio.start_server(
                self._connected,
                sock=listener,
                backlog=BACKLOG,
                ssl=self.tls,
                ssl_handshake_timeout=REQUEST_S if self.tls else None,
            )
        except OSError as error:  # ssl.SSLError among them
            self._closed_for(str(error))
            return
        try:
            steer(listener)
            others = self.other_listens()
        except OSError as error:
            self.close()
            self._closed_for(f"the kernel cannot share the port: {error}")
            return
        if others:
            self.close()
            self._closed_for("another process listens there")
        else:
            self.said = ""

    def _context(self) -> ssl.SSLContext | None:
        if not self.where.get("certfile"):
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        # With a password: asked for one, OpenSSL would ask on a terminal.
        context.load_cert_chain(self.where["certfile"], self.where.get("keyfile"), password=lambda: b"")

    def _listener(self) -> socket.socket:
        """A socket on the port, bound. Raises OSError, also when somebody listens there who would share it."""
        if self.other_listens():
            raise OSError("another process listens there")
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((self.where["host"], self.where["port"]))
        except OSError:
            listener.close()
            raise
        return listener

    def _closed_for(self, why: str) -> None:
        if why != self.said:
            self.said = why
            self.journal.event("api-port-closed", why=why)

    def other_listens(self) -> bool:
        """Whether somebody else listens on the port: when the agent does, the server."""
        own = {os.fstat(sock.fileno()).st_ino for sock in (self.server.sockets if self.server else ())}
        return bool(set(listeners(self.where["host"], self.where["port"])) - own)

    # What it answers.

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while len(self.answering) >= MAX_CONNECTIONS:
            oldest = next(iter(self.answering))
            del self.answering[oldest]
            oldest.cancel()
        task = asyncio.create_task(self._answer(reader, writer))
        self.answering[task] = None
        task.add_done_callback(lambda done: self.answering.pop(done, None))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer, whatever it is; a client that does not ask gets none."""
        try:
            async with asyncio.timeout(REQUEST_S):
                try:
                    request = await reader.readuntil(b"\r\n\r\n")
                except asyncio.LimitOverrunError:
                    request = b""
            self.refused += 1
            writer.write(self.answer(body=not request.startswith(b"HEAD ")))
            async with asyncio.timeout(LINGER_S):
                await writer.drain()
                if writer.can_write_eof():
                    writer.write_eof()
                while await reader.read(65536):
                    pass
        except (OSError, EOFError):  # TimeoutError and IncompleteReadError among them
            pass
        finally:
            writer.close()

    def answer(self, *, body: bool = True) -> bytes:
        """The whole HTTP answer."""
        seconds = self.retry_after_s()
        phase = self.journal.state.get("phase")
        message = MESSAGES.get(str(phase)) or f"{COMES}: try again in {seconds} s"
        error = {"message": message, "type": "ServiceUnavailable", "param": None, "code": 503}
        text = json.dumps({"error": error}).encode()
        lines = (
            "HTTP/1.1 503 Service Unavailable",
            f"Server: {ANSWERS_AS}",
            "Content-Type: application/json",
            f"Content-Length: {len(text)}",
            f"Retry-After: {seconds}",
            "Connection: close",
            "\r\n",
        )
        return "\r\n".join(lines).encode() + (text if body else b"")

    def retry_after_s(self) -> int:
        """Seconds until a server may be expected: as long as the last start took, less what has passed of this one."""
        whole = float(self.journal.state.get("start_s") or FIRST_START_S)
        on_its_way = self.journal.state.get("phase") not in (*MESSAGES, "serving", "draining", "restarting")
        return max(1, math.ceil(whole - (time.monotonic() - self.down_since if on_its_way else 0)))

    def serves(self) -> None:
        """The server serves: so long did its start take."""
        self.journal.state["start_s"] = round(time.monotonic() - self.down_since, 1)


def steer(listener: socket.socket) -> None:
    """Every connection goes to the second listener on the port, when there is one. Raises OSError."""
    program = ctypes.create_string_buffer(SECOND, len(SECOND))
    fprog = struct.pack("HP", 1, ctypes.addressof(program))  # struct sock_fprog
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, fprog)


def listeners(host: str, port: int) -> Iterator[int]:
    """Inodes of the sockets that listen on an IPv4 address's port, or on that of all addresses. Raises OSError."""
    native = struct.unpack("=I", socket.inet_aton(host))[0]
    of_host, any_host = f"{native:08X}", "0" * 8
    for family in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            for line in Path("/proc/net", family).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                address, _, number = fields[1].rpartition(":")
                here = address in (of_host, any_host, any_host * 4)
                if fields[3] == LISTENING and int(number, 16) == port and here:
                    yield int(fields[9])
