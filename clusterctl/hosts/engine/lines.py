"""A container's log as lines: the engine hands out frames, which split lines and join them."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.hosts.engine.engine import LogChunk


class Lines:
    """Puts log frames together to lines, one stream at a time (a frame may end in the middle of a line)."""

    def __init__(self) -> None:
        self._rest = {"stdout": b"", "stderr": b""}

    def feed(self, chunk: LogChunk) -> Iterator[str]:
        """The lines that this frame completes."""
        *lines, self._rest[chunk.stream] = (self._rest[chunk.stream] + chunk.data).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")

    def end(self) -> Iterator[str]:
        """What a stream ended with without a newline: the last words of a process that was killed."""
        for stream, rest in self._rest.items():
            self._rest[stream] = b""
            if rest:
                yield rest.decode(errors="replace").rstrip("\r")
