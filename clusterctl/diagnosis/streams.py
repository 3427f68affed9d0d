"""Streams that may be longer than what is kept of them."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable, Iterator

from clusterctl.diagnosis.bundle import MIB
from clusterctl.hosts.engine.engine import LogChunk

STAMP_BYTES = 31
"""Length of the time and the blank before every frame (RFC 3339 with nine decimals; Docker 20.10 to 29)."""


class Tail:
    """The end of a stream, cut between lines: a secret must not be cut in two."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self.dropped = 0
        self.lines = 0

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        self._chunks.append(data)
        self._size += len(data)
        self.lines += data.count(b"\n")
        while self._size > self._limit and len(self._chunks) > 1:
            gone = len(self._chunks.popleft())
            self._size -= gone
            self.dropped += gone

    @property
    def cut(self) -> str | None:
        """What was left out, if anything was."""
        size = f"{self._limit / MIB:g} MiB" if self._limit >= MIB else f"{self._limit} bytes"
        return f"only the last {size}" if self.dropped or self._size > self._limit else None

    def content(self) -> bytes:
        """The end, from the beginning of a line; nothing of a line that is longer than all of it."""
        data = b"".join(self._chunks)
        if self.dropped or len(data) > self._limit:
            data = data[-self._limit :].partition(b"\n")[2]
        return data


def whole_lines(chunks: Iterable[LogChunk]) -> Iterator[LogChunk]:
    """Frames that each begin with a time, as the text that was written: the time stands before whole lines only.

    The engine splits lines at 16 KiB and puts the time before each part, also in the middle of a secret.
    """
    middle = {"stdout": False, "stderr": False}
    for chunk in chunks:
        data = chunk.data[STAMP_BYTES:] if middle[chunk.stream] else chunk.data
        middle[chunk.stream] = not chunk.data.endswith(b"\n")
        yield LogChunk(chunk.stream, data)


class ChunkStream(io.RawIOBase):
    """A file of chunks, for tarfile."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        """For `io`: it can be read from."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes, all of them for a negative size."""
        while size < 0 or len(self._rest) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._rest += chunk
        size = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:size], self._rest[size:]
        return data
