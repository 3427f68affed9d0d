"""A command that runs in a container, and its streams."""

from __future__ import annotations

import contextlib
import json
import struct
import time
from collections.abc import Iterator
from typing import Literal, Protocol

import paramiko

from clusterctl.hosts.ssh.errors import HostError
from clusterctl.hosts.ssh.streams import Piece, WindowSize, arriving
from clusterctl.hosts.ssh.transport import end_input


class Executes(Protocol):
    """As much of an engine as a command in one of its containers needs."""

    timeout_s: float

    @property
    def node(self) -> str:
        """The node's name."""

    def failure(self, message: str, channel: paramiko.Channel) -> HostError:
        """The error for what broke on this channel."""

    def resize(self, exec_id: str, size: WindowSize) -> None:
        """Set the size of a command's terminal."""

    def exit_code(self, exec_id: str, what: str) -> int:
        """Of a command whose streams have ended."""


class DockerCommand:
    """A command that runs in a container. Its methods raise EngineError, or ConnectionLostError when SSH breaks.

    Input and output may be used from two threads; nobody else may read.
    """

    def __init__(self, engine: Executes, exec_id: str, channel: paramiko.Channel, what: str, *, tty: bool) -> None:
        channel.settimeout(None)  # a command may be silent, and may not read, for as long as it likes
        self._engine, self._id, self._channel, self._what, self._tty = engine, exec_id, channel, what, tty
        self._begun = b""

    def begin(self, request: bytes) -> None:
        """Send the request that starts it, and read the answer's head: what follows is the command's own."""
        answer = b""
        self._channel.sendall(request)
        deadline = time.monotonic() + self._engine.timeout_s
        for stream, data in arriving(self._channel, self._engine.node, self._what, deadline):
            answer += data if stream == "stdout" else b""
            head, blank, self._begun = answer.partition(b"\r\n\r\n")
            if blank and head.split()[1] in (b"101", b"200"):  # 101 Switching Protocols; engines before 20.10: 200
                return
        refused = f"the engine refused to run `{self._what}`: {_said(answer)}"
        raise self._engine.failure(refused, self._channel)

    def send(self, data: bytes) -> None:
        """To its stdin; waits while the command does not read."""
        try:
            self._channel.sendall(data)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._engine.failure(f"`{self._what}` takes no more input", self._channel) from error

    def end_input(self) -> None:
        """Close its stdin: `docker system dial-stdio` hands the half-closed connection on."""
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            end_input(self._channel)

    def resize(self, size: WindowSize) -> None:
        """Tell it the new size of its terminal; harmless when it does not run (yet)."""
        self._engine.resize(self._id, size)

    def pieces(self, deadline: float | None = None) -> Iterator[Piece]:
        """Its output as it comes, to its end. Raises CommandTimeoutError at the deadline (time.monotonic())."""
        frames = Frames()
        for stream, data in self._raw(deadline):
            if stream == "stderr":
                continue  # dial-stdio's own; that the connection ended is seen by who asks for the exit code
            yield from (("stdout", data),) if self._tty else frames.feed(data)

    def exit_code(self) -> int:
        """What it ended with, once its output has ended."""
        return self._engine.exit_code(self._id, self._what)

    def close(self) -> None:
        """Give its streams up. The command itself goes on: the engine's API cannot end it."""
        self._channel.close()

    def _raw(self, deadline: float | None) -> Iterator[Piece]:
        if self._begun:
            yield "stdout", self._begun
        yield from arriving(self._channel, self._engine.node, self._what, deadline)


class Frames:
    """Takes a stream without terminal apart into what was written where: 8 bytes of head (stream, length), then data.

    Docker Engine API, "Attach to a container". Data is passed on before its frame is complete.
    """

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._stream: Literal["stdout", "stderr"] = "stdout"

    def feed(self, data: bytes) -> Iterator[Piece]:
        """The next bytes of the stream."""
        while data:
            if self._left:
                part, data = data[: self._left], data[self._left :]
                self._left -= len(part)
                yield self._stream, part
                continue
            missing = 8 - len(self._head)
            self._head, data = self._head + data[:missing], data[missing:]
            if len(self._head) == 8:
                kind, self._left = struct.unpack(">BxxxL", self._head)
                self._stream = "stderr" if kind == 2 else "stdout"
                self._head = b""


def _said(answer: bytes) -> str:
    """The message in the engine's answer, or the answer."""
    _, _, body = answer.partition(b"\r\n\r\n")
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace").strip() or "no answer"
