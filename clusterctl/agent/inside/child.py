"""A child process of the agent, and the orphans that process 1 must collect."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PACKAGE = Path(__file__).parent
"""The directory that python3 runs: __main__.py."""
GO, GO_BESIDE = b"go\n", b"go beside\n"
"""What the server's process waits for on its stdin (children.py); the latter: share the API's port with the agent."""
BESIDE, ALONE = b"beside\n", b"alone\n"
"""What it says there before, once its modules are loaded: whether it can share that port."""
POLL_S = 0.1
"""Seconds between looks at a port that is about to open; a refused connect costs microseconds."""

OWN_CHILDREN: set[int] = set()
"""Process ids of children that asyncio will collect; any other zombie was adopted."""
STARTING: set[str] = set()
"""Names of children that are being started."""


class Child:
    """A child process in a process group of its own, so that it can be ended with its descendants."""

    def __init__(self, name: str, argv: Sequence[str], process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.argv = argv
        self.process = process
        self.forwarding: asyncio.Task[None] | None = None
        """What reads its output, when that is captured and passed on."""
        self.talk: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        """Of a captured child: its stdin, a socket, on which it answers too."""

    @classmethod
    async def start(
        cls,
        name: str,
        program: str,
        *argv: str,
        after: Sequence[str] = (),
        capture: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> Child:
        """Start `clusterctl_agent PROGRAM AFTER… ARGV…`; with `capture`, stdout and stderr come back as one stream."""
        ours, theirs = socket.socketpair() if capture else (None, None)
        # stderr is the agent's own channel for events, so a child that is not captured writes both to stdout.
        STARTING.add(name)  # until its process id is known, no zombie can be told from it
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(PACKAGE), program, *after, *argv),
                stdin=theirs.fileno() if theirs is not None else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if capture else 1,
                stderr=asyncio.subprocess.STDOUT if capture else 1,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
            OWN_CHILDREN.add(process.pid)
        finally:
            STARTING.discard(name)
            if theirs is not None:
                theirs.close()
        child = cls(name, argv, process)
        child.talk = await asyncio.open_connection(sock=ours) if ours is not None else None
        return child

    async def heard(self) -> bytes:
        """The one line that a captured child says; empty when it has ended before."""
        if self.talk is None:
            return b""
        with contextlib.suppress(ConnectionError):
            return await self.talk[0].readline()
        return b""

    def say(self, line: bytes) -> None:
        """Write one line to a captured child, the only one it will get. One that has ended is seen elsewhere."""
        if self.talk is not None:
            self.talk[1].write(line)
            self.talk[1].close()

    async def wait(self) -> int:
        """Its exit code, once it has ended.

        Not asyncio's own wait(), which in several releases of Python 3.11 and 3.12 waits for the end of the pipes too
        (python/cpython gh-119710): a child that is killed leaves descendants that hold them open.
        """
        while (code := self.process.returncode) is None:
            await asyncio.sleep(POLL_S)
        OWN_CHILDREN.discard(self.process.pid)
        return code

    async def end(self, timeout_s: float) -> bool:
        """SIGTERM, then SIGKILL to its whole group at the deadline. True when it went by itself."""
        if self.process.returncode is None and timeout_s:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
        try:
            await asyncio.wait_for(self.wait(), timeout_s)
            gracefully = True
        except TimeoutError:
            gracefully = False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.wait()
        if self.talk is not None:
            self.talk[1].close()
        return gracefully


def reap() -> None:
    """As process 1, collect orphans (Ray's and vLLM's grandchildren); own children are asyncio's to collect."""
    while True:
        try:
            peek = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if peek is None:
            return
        if STARTING or peek.si_pid in OWN_CHILDREN:
            # It hides other zombies from this look; they are collected once asyncio has taken it.
            asyncio.get_running_loop().call_later(0.2, reap)
            return
        with contextlib.suppress(ChildProcessError):
            os.waitpid(peek.si_pid, os.WNOHANG)


def wait_until_open(address: str, port: int) -> None:
    """Return when a port accepts connections; who runs this decides how long to wait. Blocks: for a child's own use."""
    while True:
        try:
            socket.create_connection((address, port), timeout=2).close()
        except OSError:
            time.sleep(POLL_S)
        else:
            return
