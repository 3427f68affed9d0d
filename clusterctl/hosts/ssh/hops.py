"""One hop on the way to a node: its address, its limits, its turn at a jump host."""

from __future__ import annotations

import contextlib
import shlex
import socket
import threading
from collections.abc import Iterator
from functools import partial

import fabric
import paramiko

from clusterctl.hosts.ssh.login import Login
from clusterctl.hosts.ssh.proxy import ProxyProcess, connected
from clusterctl.hosts.ssh.route import Route
from clusterctl.hosts.ssh.settings import Settings
from clusterctl.hosts.ssh.transport import HOST_KEYS, OrderedTransport, Wanted
from clusterctl.hosts.ssh.trust import Judge, Known

UNANSWERED_S = 60
"""Seconds until what TCP has sent, keepalives among it, must have been acknowledged (Linux's TCP_USER_TIMEOUT; by
default a cut cable is noticed after 15 minutes, net.ipv4.tcp_retries2)."""


FAREWELL_LENGTH = 200
"""Characters that are shown of what a server says when it ends the connection."""


JUMP_LOGINS = 8
"""Logins at one jump host at once. From the tenth on, sshd drops some at random (its default MaxStartups 10:30:100)."""


_jump_turns: dict[str, threading.Semaphore] = {}
"""user@host:port of each jump host → the turns to log in there, which all nodes behind it share."""


@contextlib.contextmanager
def in_turn(jump_host: str, patience_s: float) -> Iterator[None]:
    """Wait until fewer than JUMP_LOGINS others log in at the jump host; but not for ever, so that one that is off
    costs two time-outs at most, however many nodes are behind it."""
    turns = _jump_turns.setdefault(jump_host, threading.Semaphore(JUMP_LOGINS))
    held = turns.acquire(timeout=patience_s)
    try:
        yield
    finally:
        if held:
            turns.release()


class Hop(fabric.Connection):  # type: ignore[misc]
    """One machine on the way, as Fabric connects to it. Everything that it needs is said by its settings: Fabric reads
    neither ssh_config nor configuration files of its own."""

    settings: Settings = None  # type: ignore[assignment]
    before: Hop | None = None
    """The jump host that it is reached through."""
    proxy: ProxyProcess | None = None
    """What carries the connection, where ssh_config has a ProxyCommand."""

    def __init__(self, settings: Settings, before: Hop | None, connect_s: float) -> None:
        # A jump host's channel to the machine behind it waits for an hour by default (paramiko 5.1 transport.py).
        limits = dict.fromkeys(("banner_timeout", "auth_timeout", "channel_timeout"), connect_s)
        super().__init__(
            settings.hostname,
            user=settings.user,
            port=settings.port,
            config=fabric.Config(lazy=True, ssh_config=paramiko.SSHConfig()),
            gateway=before or "direct",  # either way the connection is made by `open_gateway`
            forward_agent=False,
            # Fabric truncates to whole seconds, and 0 would mean "no time-out".
            connect_timeout=max(1, round(connect_s)),
            connect_kwargs={**limits, "auth_strategy": Login(settings), "compress": settings.compression},
        )
        self.settings, self.before, self.proxy = settings, before, None
        self._connect_s = connect_s

    def open_gateway(self) -> socket.socket | paramiko.Channel:
        """What the connection is carried by. Raises OSError, or SSHException from the jump host."""
        if self.before is not None:
            self.before.open()
            target = (self.settings.hostname, self.settings.port)
            channel: paramiko.Channel = self.before.transport.open_channel(
                kind="direct-tcpip", dest_addr=target, src_addr=("", 0)
            )
            return channel
        if self.settings.proxy_argument is None:
            return connected(self.settings, self._connect_s)
        self._end_proxy()
        self.proxy = ProxyProcess(
            self.settings.proxy_argument,
            passes_socket=self.settings.proxy_passes_socket,
            patience_s=self._connect_s,
        )
        return self.proxy.socket

    def trust(self, judge: Judge, known: Known) -> None:
        """Before each opening: who judges the host's key, and which of its keys are asked for first."""
        self.client.set_missing_host_key_policy(judge)
        self.connect_kwargs["transport_factory"] = partial(OrderedTransport, wanted=wanted_of(self.settings, known))

    def close(self) -> None:
        """Close it; harmless when it is not open."""
        self.client.close()
        self._end_proxy()

    def _end_proxy(self) -> None:
        proxy, self.proxy = self.proxy, None
        if proxy is not None:
            proxy.socket.close()
            proxy.end()


def wanted_of(settings: Settings, known: Known) -> Wanted:
    """The algorithms to agree upon with a host."""
    keys = settings.host_key_algorithms
    if keys is None or not settings.host_key_order_is_chosen:
        keys = known.order(keys or HOST_KEYS)
    return Wanted(host_keys=keys, lists=settings.algorithms)


def hops_of(route: Route, connect_s: float) -> Hop:
    """The hop to a node, with the jump hosts before it."""
    hop: Hop | None = None
    for settings in reversed(route.hops):
        hop = Hop(settings, hop, connect_s)
    assert hop is not None  # noqa: S101 (a route has at least the node itself)
    return hop


def address_of(hop: Hop) -> str:
    """user@host:port."""
    return f"{hop.user}@{hop.host}:{hop.port}"


def command_to(hop: Hop, *options: str) -> str:
    """The command line with which a person reaches the same machine in the same way, for hints: what is asked of
    ssh_config here is asked of it there."""
    return shlex.join(["ssh", *options, *hop.settings.asked.words()])


def how_it_ended(transport: OrderedTransport) -> str:
    """What ended a connection, in words: sshd's own, where it sent some."""
    if transport.farewell is not None:
        said = "".join(character for character in transport.farewell if character.isprintable())
        return f"sshd closed the SSH connection: {said[:FAREWELL_LENGTH] or 'without a reason'}"
    if transport.cause is None or isinstance(transport.cause, EOFError):
        return "the SSH connection was closed by the node without giving a reason"
    return f"the SSH connection broke ({transport.cause})"


def end_when_unanswered(transport: paramiko.Transport | None) -> None:
    """A machine that is cut off closes nothing. Behind a jump host it is a channel, and no socket, that leads to it."""
    sock = transport.sock if transport is not None else None
    if isinstance(sock, socket.socket) and hasattr(socket, "TCP_USER_TIMEOUT"):
        with contextlib.suppress(OSError):  # it hung up right after the login: whoever asks next is told
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_S * 1000)
