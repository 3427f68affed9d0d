"""A process of this machine behind the face of an SSH channel, so that whoever reads channels needs to know one kind.

It is paramiko's own Channel, whose buffers are filled by threads that read the process's output instead of by a
transport: reading, time-outs, `makefile`, `fileno` and the exit code are paramiko's. Read in 5.1.0: `in_buffer`,
`in_stderr_buffer`, `status_event`, `combine_stderr`, `_handle_eof`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Sequence
from typing import Any

import paramiko

CHUNK_BYTES = 64 * 1024
UNREAD_BYTES = 2 * 1024 * 1024
"""A process waits with its output once so much of it was not taken, as over SSH (paramiko's window)."""
FULL_POLL_S = 0.02


class LocalChannel(paramiko.Channel):
    """A running process. Closing it hangs up: what still runs of it is sent SIGHUP, or SIGTERM under nohup."""

    def __init__(self, argv: Sequence[str]) -> None:
        """Raises OSError when the command cannot be started."""
        self._begin(
            subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C at our terminal is not for it
                bufsize=0,
            )
        )

    def _begin(self, process: subprocess.Popen[bytes], terminal: int | None = None) -> None:
        super().__init__(0)
        self._process, self._terminal = process, terminal
        self._input = terminal if terminal is not None else process.stdin.fileno() if process.stdin else -1
        self._writing = threading.Lock()
        outputs = [terminal] if terminal is not None else [p.fileno() for p in (process.stdout, process.stderr) if p]
        readers = [
            threading.Thread(target=self._read, args=(output, number == 1), daemon=True)
            for number, output in enumerate(outputs)
        ]
        for reader in readers:
            reader.start()
        threading.Thread(target=self._wait, args=(readers,), daemon=True).start()

    def _read(self, output: int, error: bool) -> None:
        with contextlib.suppress(OSError):  # a terminal whose process has ended answers EIO
            while data := os.read(output, CHUNK_BYTES):
                buffer = self.in_stderr_buffer if error and not self.combine_stderr else self.in_buffer
                while len(buffer) > UNREAD_BYTES and not self.closed:
                    time.sleep(FULL_POLL_S)
                if self.closed:
                    return
                buffer.feed(data)

    def _wait(self, readers: Sequence[threading.Thread]) -> None:
        """The exit code when the process ends; the end of the output once all that hold it have ended, as in sshd."""
        self.exit_status = exit_code(self._process.wait())
        self.status_event.set()
        for reader in readers:
            reader.join()
        self._handle_eof(None)  # type: ignore[attr-defined]

    def recv(self, nbytes: int) -> bytes:
        """Some bytes of its output; none at the end. Raises TimeoutError."""
        return self._taken(self.in_buffer, nbytes)

    def recv_stderr(self, nbytes: int) -> bytes:
        """The same of its errors."""
        return self._taken(self.in_stderr_buffer, nbytes)

    def _taken(self, buffer: Any, nbytes: int) -> bytes:
        try:
            data: bytes = buffer.read(nbytes, self.timeout)
        except paramiko.buffered_pipe.PipeTimeout:
            raise TimeoutError from None
        return data

    def set_combine_stderr(self, combine: bool) -> bool:
        """Whether its errors come with its output."""
        with self.lock:
            old, self.combine_stderr = self.combine_stderr, combine
            if combine and (early := self.in_stderr_buffer.empty()):
                self.in_buffer.feed(early)
        return old

    def sendall(self, s: bytes | bytearray) -> None:
        """To its input; waits while it does not read. Raises OSError when it reads no more."""
        with self._writing:
            left = memoryview(s)
            while left:
                left = left[os.write(self._input, left) :]

    def shutdown_write(self) -> None:
        """Close its input."""
        with self._writing, contextlib.suppress(OSError):
            if self._terminal is not None:
                os.write(self._terminal, b"\x04")
            elif self._process.stdin is not None:
                self._process.stdin.close()

    def resize_pty(self, width: int = 80, height: int = 24, width_pixels: int = 0, height_pixels: int = 0) -> None:
        """Tell it the new size of its terminal."""
        if self._terminal is not None:
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def close(self) -> None:
        """Hang up."""
        with self.lock:
            if self.closed:
                return
            self.closed = True
            self.in_buffer.close()
            self.in_stderr_buffer.close()
        with contextlib.suppress(OSError, ValueError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, _hang_up_signal())
        if self._terminal is not None:
            with contextlib.suppress(OSError):
                os.close(self._terminal)

    def __del__(self) -> None:
        """paramiko's would speak to a transport."""


class LocalShell(LocalChannel):
    """A shell on a terminal of its own."""

    def __init__(self, argv: Sequence[str], term: str, columns: int, rows: int) -> None:
        """Raises OSError when it cannot be started."""
        ours, theirs = pty.openpty()
        try:
            # util-linux's setsid makes the terminal the shell's own, for job control and Ctrl-C.
            process = subprocess.Popen(
                ["setsid", "--ctty", *argv],
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env={**os.environ, "TERM": term},
            )
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self._begin(process, ours)
        self.resize_pty(columns, rows)


def _hang_up_signal() -> signal.Signals:
    """Under nohup clusterctl ignores SIGHUP, and so does every process that it starts (execve(2))."""
    return signal.SIGTERM if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else signal.SIGHUP


def exit_code(code: int) -> int:
    """As shells and sshd have it: 128 and more for what a signal ended."""
    return 128 - code if code < 0 else code
