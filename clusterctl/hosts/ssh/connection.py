"""The door to SSH: Fabric opens one connection per node, once; everything else is a channel on it.

How a node is reached, ssh_config and the inventory say together (route.py). Host keys are strict: every host on the
way is judged by trust.py, jump hosts included: it refuses what known_hosts does not know, or pins a new key when
the operator said so. known_hosts is read here, not by paramiko: its own loader ends at the first line with a marker or
a damaged key (`InvalidHostKey` is no SSHException, paramiko 5.1 hostkeys.py), and knows no @revoked.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import paramiko

from clusterctl.errors import ClusterctlError
from clusterctl.hosts.connection import Connection
from clusterctl.hosts.ssh.errors import ConnectionLostError
from clusterctl.hosts.ssh.framing import Frame, NotBegunError
from clusterctl.hosts.ssh.hops import Hop, address_of, end_when_unanswered, hops_of, how_it_ended, in_turn
from clusterctl.hosts.ssh.opening import Opening
from clusterctl.hosts.ssh.route import Route, routes
from clusterctl.hosts.ssh.sessions import Sessions
from clusterctl.hosts.ssh.streams import SshCommand, WindowSize
from clusterctl.hosts.ssh.transport import OrderedTransport
from clusterctl.hosts.ssh.trust import Judge, Known, UntrustedHostKeyError, known_of
from clusterctl.inventory.model import Node, SshDefaults, Timeouts

T = TypeVar("T")


KEEPALIVE_S = 15
"""Seconds between keepalives: who only reads would never learn that nobody is there any more."""


# paramiko logs to stderr what is raised to us anyway ("Secsh channel 3 open FAILED" for each refused port).
logging.getLogger("paramiko").addHandler(logging.NullHandler())


logging.getLogger("paramiko").propagate = False


class SshConnection(Connection):
    """One node's SSH connection, opened once and shared by everything that talks to the node.

    Channels may be opened from several threads at once (paramiko's transport is thread-safe). When it is lost it is
    opened again once, for whoever only reads (`reading`); never after `close`, and never for what changes something.
    """

    def __init__(
        self,
        node: Node,
        ssh: SshDefaults,
        timeouts: Timeouts,
        *,
        accept_new_host_keys: bool = False,
        route: Route | None = None,
    ) -> None:
        """Without a `route` it is asked for here (`routes` asks for those of many nodes at once)."""
        self.node = node.name
        self._command_timeout_s = timeouts.command_s
        self._connect_timeout_s = timeouts.connect_s
        self._accept_new_host_keys = accept_new_host_keys
        self._opening = threading.Lock()
        self._closed = True
        self._may_open_again = True
        self._sessions = Sessions()
        self._sparing = threading.Lock()
        self._spare: SshConnection | None = None
        route = route or routes([node], ssh, timeouts)[node.name]
        self._another = partial(SshConnection, node, ssh, timeouts, route=route)
        self._connection = hops_of(route, timeouts.connect_s)

    @property
    def command_timeout_s(self) -> float:
        """How long one command may take, in seconds (timeouts.command_s)."""
        return self._command_timeout_s

    @property
    def target(self) -> str:
        """user@host:port, as connected to (ssh_config applied)."""
        return address_of(self._connection)

    @property
    def is_open(self) -> bool:
        """Whether the connection stands, as far as this end knows: a machine without power says nothing."""
        transport = self.transport
        return transport is not None and transport.is_authenticated()

    def open(self) -> None:
        """Connect and authenticate, jump hosts first. What it opened it closes again when it fails.

        Raises ConnectError (HostKeyError for host keys) with the fix, ConnectionLostError when the node hangs up
        right after the login.
        """
        self._closed = False
        try:
            self._open_hops()
        except ClusterctlError:
            self.close()
            raise

    def reading(self, operation: Callable[[], T]) -> T:
        """Do what changes nothing on the node; once more when the connection was lost and could be opened again.

        Raises what `operation` raises: when the connection cannot be opened again, its first error.
        """
        with self._opening:  # while another thread opens it again, there is nothing to read over
            before = self.transport
        try:
            return operation()
        except ConnectionLostError:
            if not self._opened_again(before):
                raise
        return operation()

    def _opened_again(self, lost: OrderedTransport | None) -> bool:
        """Whether there is a new connection in place of the lost one: opened here, or meanwhile by another thread.

        Each is tried once. Its host keys must be known by now, also where new ones were accepted.
        """
        with self._opening:
            if lost is None or self._closed or not self._may_open_again:
                return False
            if self.transport is not lost:
                return self.is_open
            if not lost.ended():  # what was lost is a command, or the spare connection
                return self._spare is not None and not self._spare.is_open
            self._close_hops()
            self._accept_new_host_keys = False
            try:
                self._open_hops()
            except ClusterctlError:
                self._close_hops()
                return False
            if self._closed:  # meanwhile: `close` waits for nobody
                self._close_hops()
            return self.is_open

    def _open_hops(self) -> None:
        for hop in reversed(tuple(self._hops())):
            self._open_hop(hop)
        self._transport.set_keepalive(KEEPALIVE_S)

    def _open_hop(self, hop: Hop) -> None:
        opening = self._opening_of(hop)
        turn = in_turn(address_of(hop), self._connect_timeout_s) if opening.is_jump else contextlib.nullcontext()
        known = self._known(opening)
        hop.trust(Judge(hop.settings, known, accept_new=self._accept_new_host_keys), known)
        try:
            with turn:
                hop.open()
        except (UntrustedHostKeyError, paramiko.BadHostKeyException) as error:
            raise opening.untrusted(error, known) from error
        except (paramiko.SSHException, OSError, EOFError, ValueError) as error:
            raise opening.not_opened(error) from error
        end_when_unanswered(hop.client.get_transport())

    def _opening_of(self, hop: Hop) -> Opening:
        return Opening(self.node, hop, hop is not self._connection, self._connect_timeout_s)

    def close(self) -> None:
        """Close the connection and its jump hosts', for good; harmless when it is not open."""
        self._closed = True
        self._close_hops()
        if self._spare is not None:
            self._spare.close()

    def _close_hops(self) -> None:
        for hop in self._hops():
            hop.close()

    @property
    def transport(self) -> OrderedTransport | None:
        """What carries the channels now; None when it is closed. It is told apart from one that was opened later."""
        transport: OrderedTransport | None = self._connection.client.get_transport()
        return transport

    @property
    def _transport(self) -> OrderedTransport:
        transport = self.transport
        # One that is being opened again is there before it has logged in; sshd would hang up on a channel then.
        if transport is not None and transport.is_authenticated():
            return transport
        if transport is not None and transport.ended():
            raise self._hung_up("cannot be used any more", transport)
        raise ConnectionLostError(self.node, f"{self.target}: the SSH connection is closed")

    def _hops(self) -> Iterator[Hop]:
        hop: Hop | None = self._connection
        while hop is not None:
            yield hop
            hop = hop.before

    def _known(self, opening: Opening) -> Known:
        """Raises ConnectError when a known_hosts file is there but cannot be read."""
        try:
            return known_of(opening.hop.settings)
        except OSError as error:
            raise opening.unreadable(error) from error

    def session(self, argv: Sequence[str], *, timeout_s: float | None = None, merged: bool = False) -> paramiko.Channel:
        """Start a command and return its channel, from which the command's own output is read (see framing.py).

        `merged`: its stderr comes on its stdout. Where sshd takes no more sessions on this connection (MaxSessions), it
        runs over a spare one. Raises CommandTimeoutError, HostError where the login runs no command.
        """
        timeout_s = timeout_s or self._command_timeout_s
        deadline = time.monotonic() + timeout_s
        transport = self._transport
        frame = Frame()
        try:
            if (channel := self._sessions.opened(transport, timeout_s)) is None:
                return self._spare_one().session(argv, timeout_s=timeout_s, merged=merged)
            channel.settimeout(timeout_s)
            channel.update_environment(dict(self._connection.settings.environment))
            channel.exec_command(frame.command_line(argv, merged=merged))
            try:
                printed = frame.skip_to(channel, deadline, merged=merged)
            except BaseException:
                channel.close()
                raise
        except NotBegunError as error:
            if transport.ended():  # the node hung up on everything: that says nothing about the login
                raise self.lost(f"could not start `{argv[0]}`", error, transport) from error
            raise self._opening_of(self._connection).not_run(argv[0], error, timeout_s) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self.lost(f"could not start `{argv[0]}`", error, transport) from error
        channel.settimeout(timeout_s)
        self.login_prints = self.login_prints or printed
        return channel

    def _spare_one(self) -> SshConnection:
        """A second connection, opened when it is needed, for what the first has no room for. It has one of its own."""
        with self._sparing:
            if self._closed:
                raise ConnectionLostError(self.node, f"{self.target}: the SSH connection is closed")
            if self._spare is None or not self._spare.is_open:
                self._spare = self._another()
                self._spare.open()
                self._spare.keep_this_one()
            return self._spare

    def connect_to(self, address: str, port: int, *, timeout_s: float) -> paramiko.Channel:
        """A TCP connection from the node to address:port, carried by this connection (`direct-tcpip`).

        Raises OSError when the far port refuses or the node's sshd forbids forwarding, TimeoutError at the deadline.
        """
        transport = self._transport
        try:
            channel = transport.open_channel("direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=timeout_s)
        except paramiko.ChannelException as error:
            if error.code == 1:  # SSH_OPEN_ADMINISTRATIVELY_PROHIBITED (RFC 4254, 5.1)
                raise PermissionError(
                    f"sshd on {self.node} forbids TCP forwarding (AllowTcpForwarding); the API is asked through it"
                ) from error
            raise ConnectionRefusedError(f"{address}:{port} refused the connection") from error
        except (paramiko.SSHException, EOFError) as error:
            if transport.ended():
                raise ConnectionResetError(self._hung_up("no way to the API", transport).message) from error
            raise TimeoutError(f"{address}:{port} did not answer within {timeout_s:g} s") from error
        channel.settimeout(timeout_s)
        return channel

    def shell(self, term: str, size: WindowSize) -> SshCommand:
        """The login's own shell on a new terminal of this type ($TERM) and size."""
        try:
            channel = self._transport.open_session(timeout=self._command_timeout_s)
            channel.settimeout(self._command_timeout_s)
            channel.get_pty(term, size.columns, size.rows)
            channel.invoke_shell()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self.lost("could not start a shell", error) from error
        return SshCommand(self, channel, "shell")

    def keep_this_one(self) -> None:
        """From now on it is not opened again when it is lost: what is held over it, a lock, is lost with it."""
        self._may_open_again = False

    def lost(
        self, what: str, error: BaseException | None, transport: OrderedTransport | None = None
    ) -> ConnectionLostError:
        """The error for what broke while this was done: over `transport`, where a new one may be in its place by now.

        Says whether it was the whole connection, and what sshd said when it ended that.
        """
        transport = transport or self.transport
        if transport is not None and transport.ended():
            return self._hung_up(what, transport)
        detail = f" ({error or type(error).__name__})" if error is not None else ""
        return ConnectionLostError(
            self.node, f"{self.target}: {what}{detail}", hint="is the machine still up? then run the command again"
        )

    def _hung_up(self, what: str, transport: OrderedTransport) -> ConnectionLostError:
        """The error for a connection that is gone."""
        where = self._opening_of(self._connection).where
        if self._closed:
            return ConnectionLostError(self.node, f"{where}: {what}: the SSH connection is closed")
        return ConnectionLostError(
            self.node,
            f"{where}: {what}: {how_it_ended(transport)}",
            hint="is the machine still up? on the node: journalctl -u ssh -n 50; then run the command again",
        )
