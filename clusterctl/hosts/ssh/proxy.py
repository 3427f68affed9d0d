"""The socket to a machine's sshd: over TCP, or from the ProxyCommand of ssh_config."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import tempfile
import time
from typing import IO, Any

import paramiko

from clusterctl.hosts.ssh.settings import Settings

FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}

NEXT_ADDRESS = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL)
"""What keeps one address of a host from being reached, and perhaps not the next."""

SAID_LENGTH = 400
"""Characters that are shown of what a ProxyCommand says."""

ENDING_S = 2
"""Seconds for a ProxyCommand to end after its connection has, before it is killed."""


def connected(settings: Settings, patience_s: float) -> socket.socket:
    """A TCP connection to the host: each of its addresses once, ConnectionAttempts times.

    Raises gaierror, TimeoutError, NoValidConnectionsError, or OSError.
    """
    for attempt in range(settings.attempts, 0, -1):
        try:
            return _connected_once(settings, patience_s)
        except paramiko.ssh_exception.NoValidConnectionsError:
            if attempt == 1:
                raise
            time.sleep(1)
    raise TimeoutError  # ConnectionAttempts 0, which OpenSSH refuses


def _connected_once(settings: Settings, patience_s: float) -> socket.socket:
    errors: dict[Any, OSError] = {}
    family = FAMILIES.get(settings.address_family, socket.AF_UNSPEC)
    found = socket.getaddrinfo(settings.hostname, settings.port, family, socket.SOCK_STREAM)
    for family_found, kind, protocol, _, address in found:
        made = socket.socket(family_found, kind, protocol)
        try:
            made.settimeout(patience_s)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, settings.tcp_keepalive)
            if settings.bind_interface:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, settings.bind_interface.encode() + b"\0")
            if settings.bind_address:
                made.bind((settings.bind_address, 0))
            made.connect(address)
        except OSError as error:
            made.close()
            if error.errno not in NEXT_ADDRESS:
                raise
            errors[address[:2]] = error
        else:
            return made
    raise paramiko.ssh_exception.NoValidConnectionsError(errors)


class ProxyProcess:
    """A ProxyCommand that runs, and the socket that it carries. It ends with `end`."""

    def __init__(self, command: str, *, passes_socket: bool, patience_s: float) -> None:
        """Start it as OpenSSH does: by the login's own shell, which it replaces. Raises OSError."""
        ours, theirs = socket.socketpair()
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (open until `end`)
        self._process: subprocess.Popen[bytes] | None = None
        shell = os.environ.get("SHELL") or "/bin/sh"
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [shell, "-c", f"exec {command}"],
                    stdin=subprocess.DEVNULL if passes_socket else theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=self._stderr,
                    start_new_session=True,
                )
            self.socket = _passed(ours, patience_s) if passes_socket else ours
        except BaseException:
            ours.close()
            self.end()
            raise

    def said(self) -> str:
        """What it wrote to stderr, for people."""
        if self._stderr.closed:
            return ""
        self._stderr.seek(0)
        text = self._stderr.read(SAID_LENGTH * 4).decode(errors="replace")
        return "".join(character if character.isprintable() else " " for character in text).strip()[:SAID_LENGTH]

    def end(self) -> None:
        """End it and what it started; harmless when it has ended."""
        self._stderr.close()
        if self._process is None:
            return
        for number in (signal.SIGHUP, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(ENDING_S)
                return


def _passed(channel: socket.socket, patience_s: float) -> socket.socket:
    """The connected socket that a command with ProxyUseFdpass hands over."""
    with channel:
        channel.settimeout(patience_s)
        _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not descriptors:
            raise ConnectionError("the ProxyCommand handed over no connection (ProxyUseFdpass)")
        return socket.socket(fileno=descriptors[0])
