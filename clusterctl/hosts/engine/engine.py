"""What a container engine takes and gives: values, whatever engine it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clusterctl.hosts.ssh.errors import HostError

OLDEST_API_VERSION = "1.41"
"""Docker Engine API of 20.10 (Debian 12's docker.io), the oldest engine that is tested. What is spoken is the engine's
own version, asked for at the first call: newer engines refuse old ones (29.0 asks for 1.44)."""


ID_LENGTH = 64
"""Digits of a container's ID; twelve of them are what people read."""


class EngineError(HostError):
    """The engine did not answer, or refused. `status` is the API's HTTP status where there was one."""

    def __init__(self, node: str, message: str, *, hint: str | None = None, status: int | None = None) -> None:
        super().__init__(node, message, hint=hint)
        self.status = status


@dataclass(frozen=True)
class FileInContainer:
    """A file to place in a container before it starts: absolute path, content, permission bits."""

    path: str
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class LogChunk:
    """One frame of a container's log. A frame may hold part of a line (the engine splits at 16 KiB)."""

    stream: Literal["stdout", "stderr"]
    data: bytes


@dataclass(frozen=True)
class Output:
    """Everything that a container wrote."""

    stdout: bytes
    stderr: bytes
