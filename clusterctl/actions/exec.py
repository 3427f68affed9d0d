"""`exec` and `shell`: an operator's own commands, in the cluster's container on a node or on the node itself."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from clusterctl.agent.paths import container_name
from clusterctl.errors import ClusterctlError, NodeFailure, NodesError
from clusterctl.hosts.host import Host, Hosts
from clusterctl.hosts.ssh.errors import CommandTimeoutError, HostError
from clusterctl.hosts.ssh.streams import Piece, WindowSize

MAX_LINE_BYTES = 64 * 1024
"""A line that is longer is printed in parts, so that output without newlines does not fill the memory."""


MARK = "_CLUSTERCTL_EXEC"
"""Variable in the environment of a command and all that it starts. By it they are found when they have to be ended:
the engine's API cannot end an exec (moby issue 9098), and closing its streams leaves it running."""


END_SCRIPT = """
marked() { grep -l -F -e "$1" /proc/[0-9]*/environ 2>/dev/null; }
end() { for file in $(marked "$2"); do pid=${file#/proc/}; kill -"$1" "${pid%/environ}" 2>/dev/null; done; }
end TERM "$1"
for turn in 1 2 3 4 5 6 7 8 9 10; do
    [ -n "$(marked "$1")" ] || exit 0
    sleep 0.3 2>/dev/null || sleep 1
done
end KILL "$1"
"""
"""SIGTERM to every process with the mark, and three seconds later SIGKILL to those that are left."""


SHELL = ("sh", "-c", "if command -v bash >/dev/null; then exec bash; else exec sh; fi")


Write = Callable[[Piece], None]


class Running(Protocol):
    """A command that runs somewhere: hosts.ssh.SshCommand, hosts.engine.engine.ContainerCommand."""

    def send(self, data: bytes) -> None:
        """To its stdin."""

    def end_input(self) -> None:
        """Close its stdin."""

    def resize(self, size: WindowSize) -> None:
        """Tell it the new size of its terminal."""

    def pieces(self, deadline: float | None = None) -> Iterator[Piece]:
        """Its output as it comes."""

    def exit_code(self) -> int:
        """What it ended with."""

    def close(self) -> None:
        """Give its streams up."""


class Terminal(Protocol):
    """The operator's terminal, in raw mode (ui/terminal.py)."""

    kind: str
    """$TERM."""

    def size(self) -> WindowSize:
        """Its size now."""

    def keys(self) -> Iterable[bytes]:
        """What is typed, as it is typed."""

    def write(self, piece: Piece) -> None:
        """Show it."""

    def when_resized(self, tell: Callable[[WindowSize], None]) -> None:
        """Call `tell`, from a thread of its own, whenever the size has changed."""


@dataclass(frozen=True)
class Order:
    """A command and where it is to run."""

    cluster: str
    argv: Sequence[str]
    on_host: bool
    """On the node itself, not in the cluster's container."""
    timeout_s: float | None = None
    """Seconds after which it is ended; None: never."""
    mark: str = field(default_factory=lambda: secrets.token_hex(12))


def run_on_one(host: Host, order: Order, write: Write, stdin: Iterable[bytes] | None) -> int:
    """Run it on one node, its streams passed on as they are. Returns its exit code; NodesError when it could not run.

    Whatever ends this (Ctrl-C, the time-out, a reader that went away) ends the command too.
    """
    try:
        return _run(host, order, write, stdin)
    except HostError as error:
        raise NodesError("exec", [NodeFailure(host.name, error.message, error.hint)]) from error


def run_on_each(hosts: Hosts, order: Order, write: Write) -> None:
    """Run it on all connected nodes at once, each line with its node's name, without stdin.

    Raises NodesError with every node that was not reached, or where it did not end with exit code 0.
    """
    lock = threading.Lock()
    width = max(len(name) for name in (*hosts.connected, *hosts.unreachable))

    def work(host: Host) -> int:
        lines = PrefixedLines(f"{host.name:<{width}} | ".encode())

        def show(pieces: Iterable[Piece]) -> None:
            with lock:
                for piece in pieces:
                    write(piece)

        code = _run(host, order, lambda piece: show(lines.feed(piece)), None)
        show(lines.end())
        return code

    try:
        outcomes = hosts.each(work)
    except BaseException:
        hosts.each(lambda host: _end(host, order))
        raise
    errors = {**hosts.unreachable, **outcomes.errors}
    failures = {name: NodeFailure(name, error.message, error.hint) for name, error in errors.items()}
    failures |= {name: NodeFailure(name, f"exit code {code}") for name, code in outcomes.values.items() if code != 0}
    if failures:
        raise NodesError("exec", [failures[name] for name in hosts.nodes if name in failures])


def open_shell(host: Host, cluster: str, terminal: Terminal, *, on_host: bool) -> int:
    """A shell for a person, in the cluster's container or on the node. Returns its exit code."""
    order = Order(cluster, SHELL, on_host)
    try:
        if on_host:
            command: Running = host.connection.shell(terminal.kind, terminal.size())
        else:
            command = host.engine.exec(
                running_container(host, cluster),
                SHELL,
                environment={MARK: order.mark, "TERM": terminal.kind},
                stdin=True,
                size=terminal.size(),
            )
        terminal.when_resized(command.resize)
        # Once more: engines before 23.0 (API 1.42) take no size with the start.
        command.resize(terminal.size())
        return _follow(host, order, command, terminal.write, terminal.keys())
    except HostError as error:
        raise NodesError("shell", [NodeFailure(host.name, error.message, error.hint)]) from error


def running_container(host: Host, cluster: str) -> str:
    """ID of the cluster's container on the node. Raises HostError that says what is there instead."""
    name = container_name(cluster)
    found = host.engine.container(name)
    if found is None:
        raise HostError(
            host.name, f"there is no container {name}", hint="clusterctl up starts it; --host needs no container"
        )
    if not found.running:
        raise HostError(
            host.name,
            f"container {name} does not run: {found.status}, exit code {found.exit_code}",
            hint=f"clusterctl logs --node {host.name} says why; --host needs no container",
        )
    return found.id


class PrefixedLines:
    """Whole lines of each stream, each with a prefix; bytes are not touched."""

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix
        self._rest = {"stdout": b"", "stderr": b""}

    def feed(self, piece: Piece) -> Iterator[Piece]:
        """The lines that this piece completes."""
        stream, data = piece
        *lines, rest = (self._rest[stream] + data).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            lines, rest = [*lines, rest], b""
        self._rest[stream] = rest
        for line in lines:
            yield stream, self._prefix + line + b"\n"

    def end(self) -> Iterator[Piece]:
        """What ended without a newline."""
        if rest := self._rest["stdout"]:
            yield "stdout", self._prefix + rest + b"\n"
        if rest := self._rest["stderr"]:
            yield "stderr", self._prefix + rest + b"\n"


def _run(host: Host, order: Order, write: Write, stdin: Iterable[bytes] | None) -> int:
    if order.on_host:
        # A shell around it: paramiko does not tell which signal ended a command, a shell does (128 and its number).
        argv = ["sh", "-c", '"$@"; exit $?', "sh", "env", f"{MARK}={order.mark}", *order.argv]
        command: Running = host.connection.start(argv)
    else:
        container = running_container(host, order.cluster)
        command = host.engine.exec(container, order.argv, environment={MARK: order.mark}, stdin=True)
    return _follow(host, order, command, write, stdin)


def _follow(host: Host, order: Order, command: Running, write: Write, stdin: Iterable[bytes] | None) -> int:
    """Pass its streams on to its end; end it when this ends before it does."""
    deadline = None if order.timeout_s is None else time.monotonic() + order.timeout_s
    try:
        threading.Thread(target=_feed, args=(command, stdin or ()), daemon=True).start()
        for piece in command.pieces(deadline):
            write(piece)
        return command.exit_code()
    except BaseException as error:
        # First: while output waits to be taken, the engine does not see that anything in this container ends.
        command.close()
        _end(host, order)
        if isinstance(error, CommandTimeoutError):
            raise CommandTimeoutError(
                host.name, f"`{order.argv[0]}` did not end within {order.timeout_s:g} s, and was ended"
            ) from error
        raise
    finally:
        command.close()


def _feed(command: Running, stdin: Iterable[bytes]) -> None:
    with contextlib.suppress(ClusterctlError, OSError):  # who reads the output says what became of the command
        for data in stdin:
            command.send(data)
        command.end_input()


def _end(host: Host, order: Order) -> None:
    """End the command and everything that it started, as far as the node can still be asked."""
    argv = ["sh", "-c", END_SCRIPT, "sh", f"{MARK}={order.mark}"]
    with contextlib.suppress(ClusterctlError):
        if order.on_host:
            host.connection.run(argv)
            return
        ending = host.engine.exec(running_container(host, order.cluster), argv, environment={}, stdin=False)
        for _ in ending.pieces(time.monotonic() + host.connection.command_timeout_s):
            pass
        ending.close()
