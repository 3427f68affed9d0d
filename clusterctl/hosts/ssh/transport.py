"""paramiko's transport, with what a channel must not send taken out: nothing follows its CLOSE.

The defect, in paramiko 3.4 to 5.1 (channel.py): a channel makes a message under its own lock, and sends it after
letting go. When the server's CLOSE arrives in between, the transport's thread answers it first, and the message then
names a channel that the server has freed. RFC 4254, 5.3 forbids that, and OpenSSH ends the WHOLE connection: `ieof
packet referred to nonexistent channel 0`. It hits `shutdown_write` in about one of a hundred runs with many short
commands; data, window adjustments and requests are made in the same way. Where OpenSSH has given the number to the next
channel meanwhile, that one gets the message instead.

Reported as paramiko/paramiko issues #1115, #1584 and #1705, all open; the fix proposed in PR #1137 has been open since
2017. The fork paramiko-ng has fixed it for EOF alone (ploxiln/paramiko-ng #101), by a lock that is held while EOF is
sent. Here nobody holds a lock while he waits: the check is made where the message is written.

This overrides what paramiko does not document (read in 5.1.0, the same in 3.4.0, 3.5.1 and 4.0.0):
`Transport._send_user_message`, `_send_message`, `_parse_newkeys`, `_parse_disconnect`, `saved_exception`, and
`Channel.transport`. tests/unit/test_ordered_transport.py fails when a paramiko no longer works in this way.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import paramiko

CHANNEL_CLOSE = 97
"""SSH_MSG_CHANNEL_CLOSE (RFC 4250, 4.1.2)."""


FIRST_OF_CONNECTION = 80
"""The first message number of the connection protocol (RFC 4250, 4.1.1). From it on, nothing may be sent while keys are
exchanged (RFC 4253, 7.1)."""


ENDING_S = 2
"""Seconds for paramiko's thread to finish, once it has met what ends the connection. It takes milliseconds."""


@dataclass(frozen=True)
class Wanted:
    """The algorithms to agree upon with a server."""

    host_keys: tuple[str, ...]
    """Types of host keys, certificates among them, in the order of preference."""
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Lists that replace paramiko's, by its name for them (KNOWN_LISTS)."""


HOST_KEYS: tuple[str, ...] = tuple(paramiko.Transport._key_info)  # type: ignore[attr-defined]
"""Types of host keys that paramiko can verify."""


KNOWN_LISTS = {"ciphers": "_cipher_info", "digests": "_mac_info", "kex": "_kex_info"}
"""paramiko's lists of algorithms → where it has those that it knows."""


def end_input(channel: paramiko.Channel) -> None:
    """Tell a command that no more input comes. The one way to do so: harmless when the channel is being closed.

    Raises OSError, EOFError or SSHException when the connection breaks.
    """
    channel.shutdown_write()


def transport_of(channel: paramiko.Channel) -> OrderedTransport | None:
    """What carries this channel, also when a later connection has taken its place."""
    door = channel.transport
    return door.transport if isinstance(door, _Door) else None


class OrderedTransport(paramiko.Transport):
    """A transport whose channels send nothing after their CLOSE, and whose thread never waits for itself.

    Given to `SSHClient.connect` as `transport_factory`. Only channels that this side opens are watched over: whatever a
    server wants to open is refused (no agent, X11 or port is forwarded here).
    """

    def __init__(self, *args: Any, wanted: Wanted | None = None, **named: Any) -> None:
        self._wanted_host_keys = wanted.host_keys if wanted is not None else HOST_KEYS
        self.farewell: str | None = None
        """What the other side said when it ended the connection (SSH_MSG_DISCONNECT); None when it said nothing."""
        self.cause: Exception | None = None
        """What ended an authenticated connection, where that was an exception: EOFError when it was hung up."""
        self._saved: Exception | None = None
        self._put_off: deque[paramiko.Message] = deque()
        super().__init__(*args, **named)
        for name, algorithms in wanted.lists.items() if wanted is not None else ():
            self._restrict(name, algorithms)

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        """Types of host keys in the order of preference. paramiko's own puts certificates last, whoever is known."""
        found = tuple(name for name in self._wanted_host_keys if name in HOST_KEYS)
        if not found:
            raise paramiko.SSHException(f"none of HostKeyAlgorithms {','.join(self._wanted_host_keys)} is known here")
        return found

    def _restrict(self, name: str, algorithms: tuple[str, ...]) -> None:
        """Offer these alone. Raises SSHException when paramiko has none of them."""
        found = [algorithm for algorithm in algorithms if algorithm in getattr(self, KNOWN_LISTS[name])]
        if not found:
            raise paramiko.SSHException(f"none of these {name} of ssh_config is known here: {','.join(algorithms)}")
        setattr(self.get_security_options(), name, found)

    def ended(self) -> bool:
        """Whether the connection is gone.

        paramiko wakes those who wait for a channel before it says that the connection is not active: once it is known
        to be ending, that is waited for.
        """
        if self.is_active() and (self.farewell is not None or self.cause is not None):
            self.join(ENDING_S)
        return not self.is_active()

    def open_channel(self, *args: Any, **named: Any) -> paramiko.Channel:
        """As paramiko's, with a door for what the channel sends."""
        channel = super().open_channel(*args, **named)
        # Until now only this thread knows the channel, so nothing is on its way. One that the server has closed
        # already (its flag is set under this lock) sends nothing more.
        with channel.lock:
            channel.transport = _Door(self)  # type: ignore[assignment]
        return channel

    @property
    def saved_exception(self) -> Exception | None:
        """paramiko's own: the last exception, until somebody takes it (get_exception)."""
        return self._saved

    @saved_exception.setter
    def saved_exception(self, error: Exception | None) -> None:
        self._saved = error
        refused = isinstance(error, paramiko.ChannelException)  # a channel, not the connection
        if error is not None and not refused and self.authenticated and threading.current_thread() is self:
            self.cause = error

    def _send_user_message(self, data: paramiko.Message) -> None:
        # paramiko lets everybody wait until new keys are there; its own thread, which alone can receive them, would
        # wait for 30 s (clear_to_send_timeout) and then end the connection: for the server's CLOSE that was on its way
        # when an exchange began, or for a keepalive.
        if threading.current_thread() is not self:
            super()._send_user_message(data)  # type: ignore[misc]
        elif self.is_active():
            with self.clear_to_send_lock:
                self._send_message(data)

    def _send_message(self, data: paramiko.Message) -> None:
        """Every message passes here; those of channels under `clear_to_send_lock`, so one after the other."""
        kind = data.asbytes()[0]
        if kind >= FIRST_OF_CONNECTION and threading.current_thread() is self and not self.clear_to_send.is_set():
            self._put_off.append(data)
            return
        if isinstance(data, _Letter):
            if data.door.shut:
                return
            data.door.shut = kind == CHANNEL_CLOSE
        try:
            super()._send_message(data)  # type: ignore[misc]
        except (EOFError, OSError) as error:
            # What carries us is gone (a jump host hung up, say), and paramiko's own thread has not read that yet.
            if self.authenticated and self.cause is None:
                self.cause = error
            raise

    def _parse_newkeys(self, m: paramiko.Message) -> None:
        super()._parse_newkeys(m)  # type: ignore[misc]
        due, self._put_off = self._put_off, deque()
        for message in due:  # should the next exchange have begun already, they are put off once more, in this order
            self._send_user_message(message)

    def _parse_disconnect(self, m: paramiko.Message) -> None:
        m.get_int()  # the reason's code, which is 2 (protocol error) for nearly everything that OpenSSH says
        self.farewell = m.get_text()
        m.rewind()
        super()._parse_disconnect(m)  # type: ignore[misc]


class _Door:
    """What a channel has in place of the transport: all of it, but its messages carry the mark of the channel.

    By the channel's number they could not be told apart: OpenSSH gives a freed number to the next channel at once.
    """

    def __init__(self, transport: OrderedTransport) -> None:
        self.transport = transport
        self.shut = False
        """Whether CLOSE has been sent. Read and written under the transport's `clear_to_send_lock`."""

    def _send_user_message(self, data: paramiko.Message) -> None:
        self.transport._send_user_message(_Letter(data, self))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


class _Letter(paramiko.Message):
    """A channel's message, and the door through which it goes."""

    def __init__(self, message: paramiko.Message, door: _Door) -> None:
        super().__init__(message.asbytes())
        self.door = door
