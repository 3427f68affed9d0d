"""Sessions on one connection, of which sshd takes only so many (MaxSessions in sshd_config(5), 10 by default)."""

from __future__ import annotations

import threading
import time

import paramiko

SETTLE_S = 2.0
"""Seconds for sshd to notice that a session which we have closed has ended, before it counts as one that it refuses."""
TURN_S = 0.02


class Sessions:
    """Those that are open, and how many sshd takes, once it has refused one. Used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._transport: paramiko.Transport | None = None
        self._open: list[paramiko.Channel] = []
        self._coming = 0
        self._limit: int | None = None

    def opened(self, transport: paramiko.Transport, timeout_s: float) -> paramiko.Channel | None:
        """A new session, or None where there is no room for it. Raises what paramiko raises: ChannelException where not
        even a first one is taken."""
        deadline = time.monotonic() + SETTLE_S
        while self._may_come(transport):
            channel = None
            try:
                channel = transport.open_session(timeout=timeout_s)
                return channel
            except paramiko.ChannelException:
                if time.monotonic() > deadline:
                    raise
            finally:
                self._came(channel)
            time.sleep(TURN_S)
        return None

    def _may_come(self, transport: paramiko.Transport) -> bool:
        with self._lock:
            if transport is not self._transport:  # opened again
                self._transport, self._open = transport, []
            self._open = [channel for channel in self._open if not channel.closed]
            if self._limit is not None and len(self._open) + self._coming >= self._limit:
                return False
            self._coming += 1
            return True

    def _came(self, channel: paramiko.Channel | None) -> None:
        with self._lock:
            self._coming -= 1
            if channel is not None:
                self._open.append(channel)
            elif self._open or self._coming:
                self._limit = max(1, len(self._open) + self._coming)
