"""One hop on the way to a node: its address, its limits, its turn at a jump host."""

from __future__ import annotations

import contextlib
import shlex
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import fabric
import paramiko

from clusterctl.errors import UsageError
from clusterctl.hosts.ssh.transport import OrderedTransport

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


def address_of(hop: fabric.Connection) -> str:
    """user@host:port."""
    return f"{hop.user}@{hop.host}:{hop.port}"


def command_to(hop: fabric.Connection, *options: str) -> str:
    """The command line with which a person reaches the same machine in the same way, for hints: ssh takes a port as an
    option only, and an IPv6 address without brackets; in a jump host's name it is the other way round."""
    port = ["-p", str(hop.port)] if hop.port != SSH_PORT else []
    through = hop.gateway
    jump = ["-J", _jump(through)] if isinstance(through, fabric.Connection) else []
    return shlex.join(["ssh", *options, *jump, *port, f"{hop.user}@{hop.host}"])


def _jump(hop: fabric.Connection) -> str:
    host = f"[{hop.host}]" if ":" in hop.host else hop.host
    here = f"{hop.user}@{host}:{hop.port}"
    before = hop.gateway
    return f"{_jump(before)},{here}" if isinstance(before, fabric.Connection) else here


SSH_PORT = 22


def how_it_ended(transport: OrderedTransport) -> str:
    """What ended a connection, in words: sshd's own, where it sent some."""
    if transport.farewell is not None:
        said = "".join(character for character in transport.farewell if character.isprintable())
        return f"sshd closed the SSH connection: {said[:FAREWELL_LENGTH] or 'without a reason'}"
    if transport.cause is None or isinstance(transport.cause, EOFError):
        return "the SSH connection was closed by the node without giving a reason"
    return f"the SSH connection broke ({transport.cause})"


def known_as(hop: fabric.Connection) -> str:
    """The name under which known_hosts has the host, and paramiko looks for it."""
    return hop.host if int(hop.port) == paramiko.config.SSH_PORT else f"[{hop.host}]:{hop.port}"


def end_when_unanswered(transport: paramiko.Transport | None) -> None:
    """A machine that is cut off closes nothing. Behind a jump host it is a channel, and no socket, that leads to it."""
    sock = transport.sock if transport is not None else None
    if isinstance(sock, socket.socket) and hasattr(socket, "TCP_USER_TIMEOUT"):
        with contextlib.suppress(OSError):  # it hung up right after the login: whoever asks next is told
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_S * 1000)


def prepare_hop(hop: fabric.Connection, connect_s: float) -> None:
    """Give every step of opening the connection, and a machine behind it, this many seconds; and our transport."""
    # Fabric truncates to whole seconds, and 0 would mean "no time-out".
    hop.connect_timeout = max(1, round(connect_s))
    # A jump host's channel to the machine behind it waits for an hour by default (paramiko 5.1 transport.py).
    limits = dict.fromkeys(("banner_timeout", "auth_timeout", "channel_timeout"), connect_s)
    hop.connect_kwargs = {**hop.connect_kwargs, **limits, "transport_factory": OrderedTransport}


def ssh_config(path: Path | None) -> fabric.Config:
    """Fabric's configuration with the operator's ssh_config. Raises UsageError when that cannot be read."""
    try:
        return fabric.Config(runtime_ssh_path=str(path)) if path else fabric.Config()
    except (OSError, paramiko.ConfigParseError) as error:
        raise UsageError(
            f"ssh.config: cannot read {path or 'your ssh_config'}: {error}",
            hint="ssh -G somewhere tells where it is wrong",
        ) from error
