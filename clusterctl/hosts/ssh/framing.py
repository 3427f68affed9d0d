"""Where a command's own output begins: what a login prints before it (~/.bashrc, ~/.ssh/rc) is not taken for an answer.

sshd hands a command line to the login's shell, which may be any: sh, bash, zsh, fish, tcsh, busybox. So the line is
nothing but `exec /bin/sh -c '…'` and words in single quotes, with no character that one of them reads in another way
there: fish takes `\\\\` and `\\'` inside single quotes for escapes, tcsh looks for `!` and refuses a line feed, and zsh
looks up a bare word that begins with `=`. The script prints a mark, on both streams, and becomes the command. `exec`
leaves no shell behind whose exit trap could print something after it.
"""

from __future__ import annotations

import re
import secrets
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import paramiko

CHUNK_BYTES = 64 * 1024
KEPT_BYTES = 4096
"""Of what a login prints, as much as anybody would read."""
LONGEST_BYTES = 16 * 1024 * 1024
"""A login that prints more than this does not come to an end."""


SHOWN_LENGTH = 160
"""Characters of it that a message quotes."""
COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*(\x07|\x1b\\)")
UNSAFE = re.compile(r"[!'\\\n]")
PLAIN = 'exec "$@"'
DECODED = (
    'n=$#; while [ $n -gt 0 ]; do a=$(printf "%b." "$1"); set -- "$@" "${a%.}"; shift; n=$((n-1)); done; exec "$@"'
)
"""`%b` of printf takes \\0 and three octal digits for a byte (POSIX); the dot keeps line feeds at the end, which
`$(…)` takes off."""


class NotBegunError(Exception):
    """The login did not run the command. `printed` is what it printed instead."""

    def __init__(self, printed: bytes, *, ended: bool) -> None:
        super().__init__(printed)
        self.printed = printed
        self.ended = ended
        """Whether its output ended; else it was still at work at the deadline."""


class Frame:
    """The mark of one command: makes the command line, and finds where the output begins."""

    def __init__(self) -> None:
        self._word = f"clusterctl-{secrets.token_hex(8)}"
        # Not as it stands in the command line: a login may print that ($SSH_ORIGINAL_COMMAND, `set -x`).
        self._mark = f"\x1e{self._word}\x1e".encode()

    def command_line(self, argv: Sequence[str], *, merged: bool = False) -> str:
        """What sshd hands to the login's shell. `merged`: the command's stderr goes where its stdout goes."""
        coded = any(UNSAFE.search(word) for word in argv)
        mark = f'printf "\\036{self._word}\\036"'
        begin = f"exec 2>&1; {mark}" if merged else f"{mark} >&2; {mark}"
        script = f"{begin}; {DECODED if coded else PLAIN}"
        words = [_coded(word) for word in argv] if coded else argv
        return " ".join(["exec", "/bin/sh", "-c", *(f"'{word}'" for word in (script, "sh", *words))])

    def skip_to(self, channel: paramiko.Channel, deadline: float, *, merged: bool = False) -> bytes:
        """Read both streams up to the mark; what follows it is left there. Returns what the login printed to stdout.

        Raises NotBegunError when the mark does not come by the deadline (time.monotonic()), or not at all; OSError when
        the connection breaks.
        """
        printed = self._skip(channel, channel.recv, channel.in_buffer, deadline)
        if not merged:  # a channel whose stderr ends without the mark has ended: stdout says that
            try:
                self._skip(channel, channel.recv_stderr, channel.in_stderr_buffer, deadline)
            except NotBegunError as error:
                if not error.ended:
                    raise
        return printed

    def _skip(self, channel: paramiko.Channel, recv: Callable[[int], bytes], pipe: Any, deadline: float) -> bytes:
        printed, tail, size = bytearray(), b"", 0
        while (remaining := deadline - time.monotonic()) > 0 and size < LONGEST_BYTES:
            channel.settimeout(remaining)
            try:
                chunk = recv(CHUNK_BYTES)
            except TimeoutError:
                break
            if not chunk:
                raise NotBegunError(bytes(printed + tail)[:KEPT_BYTES], ended=True)
            size += len(chunk)
            before, mark, after = (tail + chunk).partition(self._mark)
            if mark:
                _put_back(pipe, after)
                return bytes(printed + before)[:KEPT_BYTES]
            kept = len(before) - len(self._mark) + 1
            tail = before[max(0, kept) :]
            printed += before[: min(max(0, kept), KEPT_BYTES - len(printed))]
        raise NotBegunError(bytes(printed + tail)[:KEPT_BYTES], ended=False)


def shown(printed: bytes) -> str:
    """What a login printed, as one line that can be quoted: no control characters, no colours, not too long."""
    text = COLOUR.sub("", printed.decode(errors="replace"))
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f'"{line[:SHOWN_LENGTH]}{" …" if len(line) > SHOWN_LENGTH else ""}"' if line else ""


def _coded(word: str) -> str:
    return UNSAFE.sub(lambda found: f"\\0{ord(found[0]):03o}", word)


def _put_back(pipe: Any, data: bytes) -> None:
    """To be read before what has arrived since. It has no method for that (paramiko 5.1, buffered_pipe.py)."""
    if not data:
        return
    with pipe._lock:
        pipe._buffer[:0] = array("B", data)
        if pipe._event is not None:
            pipe._event.set()
        pipe._cv.notify_all()
