"""The operator's terminal, given over to a shell on a node: raw mode, keys, size."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator

from clusterctl.hosts.ssh.streams import Piece, WindowSize


class RawTerminal:
    """A context manager: inside, every key (Ctrl-C among them) goes to the shell; outside, all is as it was."""

    def __init__(self) -> None:
        self.kind = os.environ.get("TERM", "dumb")
        self._keyboard, self._screen = sys.stdin.fileno(), sys.stdout.fileno()
        self._left = contextlib.ExitStack()

    def __enter__(self) -> RawTerminal:
        before = termios.tcgetattr(self._keyboard)
        self._left.callback(termios.tcsetattr, self._keyboard, termios.TCSADRAIN, before)
        # The window was closed: the shell has to end too, as with Ctrl-C elsewhere.
        self._left.callback(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, _interrupt))
        tty.setraw(self._keyboard)
        return self

    def __exit__(self, *_: object) -> None:
        self._left.close()

    def size(self) -> WindowSize:
        """Its size now."""
        return WindowSize(*os.get_terminal_size(self._screen))

    def keys(self) -> Iterator[bytes]:
        """What is typed, as it is typed."""
        while data := os.read(self._keyboard, 4096):
            yield data

    def write(self, piece: Piece) -> None:
        """Show it; a terminal has one stream."""
        sys.stdout.buffer.write(piece[1])
        sys.stdout.buffer.flush()

    def when_resized(self, notify: Callable[[WindowSize], None]) -> None:
        """Call `notify`, from a thread of its own, whenever the size has changed."""
        changed = threading.Event()

        def watch() -> None:
            while True:
                changed.wait()
                changed.clear()
                notify(self.size())

        # Not from the handler: it may interrupt the main thread while that holds a lock of the connection.
        before = signal.signal(signal.SIGWINCH, lambda *_: changed.set())
        self._left.callback(signal.signal, signal.SIGWINCH, before)
        threading.Thread(target=watch, daemon=True).start()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
