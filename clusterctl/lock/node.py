"""The lock on one node: a script that holds it and beats as long as the connection stands."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import suppress
from pathlib import Path

from clusterctl.hosts.host import Host
from clusterctl.hosts.ssh.errors import CommandTimeoutError, ConnectionLostError, HostError
from clusterctl.lock.history import plain
from clusterctl.lock.holder import Busy, read_holder

SCRIPT = Path(__file__).with_name("scripts").joinpath("lock.sh").read_bytes()


BEAT_S = 10.0
"""Seconds between two signs of life: two may be lost before SILENCE_S ends the lock."""


SILENCE_S = 30
"""Seconds without a sign of life after which a node gives the lock up."""


SURE_S = SILENCE_S - 5.0
"""How long an answered sign of life proves the lock; the rest is for what is decided to be done."""


ANSWER_S = 10.0
"""Seconds for the script to start, and for each of its answers; it takes milliseconds unless the node hangs."""


RELEASE_S = 2.0
"""Seconds for a node to confirm that the lock is free, and to record the end."""


SETTLE_TURNS, SETTLE_S = 5, 0.05
"""A holder is locked a moment before it has written who it is, and after it has removed that: looked at again."""


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A clock that goes on while the machine sleeps: a laptop that was closed for an hour must not believe in its lock."""


def lock_path(cluster: str) -> str:
    """The lock's file on a node: /tmp is the one directory that every login has and may write."""
    return f"/tmp/clusterctl-{cluster}.lock"  # noqa: S108 (scripts/lock.sh says how it is opened there)


class NodeLock:
    """The script on one node, and the thread that listens to it and keeps it alive."""

    def __init__(self, host: Host, cluster: str) -> None:
        self.node = host.name
        argv = ["sh", "-s", "--", lock_path(cluster), cluster, str(SILENCE_S)]
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._beats: dict[int, float] = {}
        self._count = 0
        self._proven_at = _now()
        self._heard = threading.Condition()
        self._ended = False
        self._last = ""
        self._conversation = host.connection.converse(argv, stdin=SCRIPT)
        threading.Thread(target=self._listen, name=f"lock of {host.name}", daemon=True).start()
        try:
            word, rest = self.answer("ready", "missing", timeout_s=ANSWER_S)
        except BaseException:
            self.close()
            raise
        if word == "missing":
            self.close()
            raise HostError(
                self.node,
                f"the command `{rest}` is missing, which the cluster's lock needs",
                hint=f"install {'util-linux' if rest == 'flock' else 'coreutils'} on the node",
            )

    def ask(self, request: str, *words: str, timeout_s: float = ANSWER_S) -> tuple[str, str]:
        """Send a request, and return the answer that begins with one of `words`: the word, and the rest.

        Raises ConnectionLostError when the script or the connection ended, CommandTimeoutError at the deadline.
        """
        self._conversation.send(f"{request}\n".encode())
        return self.answer(*words, timeout_s=timeout_s)

    def answer(self, *words: str, timeout_s: float) -> tuple[str, str]:
        """The next answer that begins with one of `words`. Raises as `ask` does."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise CommandTimeoutError(
                    self.node, f"the lock's script did not respond within {timeout_s:g} s: the machine may hang"
                ) from None
            if line is None:
                self._answers.put(None)  # for whoever asks next
                raise ConnectionLostError(self.node, self._ended_because())
            word, _, rest = line.partition(" ")
            if word in words:
                return word, rest
            self._last = line

    def try_lock(self, record: str) -> Busy | None:
        """Take the lock: None when it is ours now. Raises HostError when the lock's file cannot be used."""
        for _ in range(SETTLE_TURNS):
            word, rest = self.ask(f"try {record}", "locked", "busy", "refused")
            if word == "locked":
                return None
            if word == "refused":
                raise HostError(
                    self.node, f"the lock cannot be taken: {rest}", hint="remove that file as its owner or root"
                )
            now, _, text = rest.partition(" ")
            busy = Busy(read_holder(text), float(now))
            if busy.holder is not None:
                break
            time.sleep(SETTLE_S)
        return busy

    def lost(self) -> str | None:
        """Why the lock is not held any more; None when it surely is.

        A sign of life that was answered proves it for SURE_S; after that the node is asked, at once.
        """
        with self._heard:
            if not self._ended and _now() - self._proven_at < SURE_S:
                return None
            asked_at = _now()
        with suppress(HostError):
            self._beat()
        with self._heard:
            self._heard.wait_for(lambda: self._ended or self._proven_at >= asked_at, SILENCE_S - SURE_S)
            if not self._ended and self._proven_at >= asked_at:
                return None
            return self._ended_because() if self._ended else f"no sign of life for {_now() - self._proven_at:.0f} s"

    def end(self) -> None:
        """Give the lock up, wait until the node confirms it or RELEASE_S have passed, and close the channel."""
        with suppress(HostError):
            self.ask("end", "released", timeout_s=RELEASE_S)
        self.close()

    def close(self) -> None:
        """Close the channel; whatever the script holds goes with it."""
        self._conversation.close()

    def _ended_because(self) -> str:
        return f"the script that holds the lock ended{f': {plain(self._last)}' if self._last else ''}"

    def _beat(self) -> None:
        with self._heard:
            self._count += 1
            number = self._count
            self._beats[number] = _now()
        self._conversation.send(f"beat {number}\n".encode())

    def _listen(self) -> None:
        due = _now() + BEAT_S
        with suppress(HostError):
            for line in self._conversation.lines(BEAT_S):
                if line is not None:
                    self._hear(line)
                if _now() >= due or line is None:
                    due = _now() + BEAT_S
                    self._beat()
        with self._heard:
            self._ended = True
            self._heard.notify_all()
        self._answers.put(None)

    def _hear(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word != "beat":
            self._answers.put(line)
            return
        with self._heard:
            self._proven_at = max(self._proven_at, self._beats.pop(int(rest), 0.0))
            self._heard.notify_all()


def _now() -> float:
    return time.clock_gettime(_CLOCK)
