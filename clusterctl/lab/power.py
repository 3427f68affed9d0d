"""A node's power: start its first process, find it, kill it.

No PID files: the process above a node's init (`unshare`) carries the path of the node's init script in its arguments,
so what runs is read from /proc, also after a crash of ours or by another state root.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from clusterctl.errors import ClusterctlError
from clusterctl.lab import network
from clusterctl.lab.state import LabNode, LabPaths

INIT = "init.sh"
"""The node's first process, in the node's directory."""
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
"""A machine's first process inherits nothing from whoever pressed the button (proxies, tokens, PYTHON…)."""
START_S = 20.0
"""How long the namespaces of a node may take to be made."""
KILL_S = 20.0
"""How long the kernel may take to end everything in a PID namespace."""


@dataclass(frozen=True)
class Running:
    """A node that has power: the `unshare` above it, and its first process (None for the moment before it exists)."""

    parent: int
    init: int | None


def start(paths: LabPaths, node: LabNode, *, cgroup: str) -> Running:
    """Give a node power. It lives in its own session: the command that started it may end, and its terminal may."""
    directory = paths.node(node.name)
    argv = [
        "nsenter",
        f"--net={network.NETNS_DIRECTORY / network.namespace(paths, node.name)}",
        # --kill-child: ending `unshare` is a power cut too. --ipc: System V segments are the node's own.
        *("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *("--propagation", "private"),
        *("sh", str(directory / INIT), str(directory), node.name, cgroup),
    ]
    with (directory / "console.log").open("ab") as console:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
            cwd="/",
            env=ENVIRONMENT,
        )
    deadline = time.monotonic() + START_S
    while True:
        found = _look(paths, Path("/proc", str(process.pid)))  # `nsenter` becomes `unshare`, under the same PID
        if found and found[1].init is not None:
            return found[1]
        if process.poll() is not None or time.monotonic() > deadline:
            raise ClusterctlError(f"{node.name}'s first process did not start; see {directory / 'console.log'}")
        time.sleep(0.01)


def running(paths: LabPaths) -> dict[str, Running]:
    """Every node of the lab that has power, by name, read from the process table."""
    processes = (process for process in Path("/proc").iterdir() if process.name.isdigit())
    return dict(found for process in processes if (found := _look(paths, process)))


def is_on(process: Running) -> bool:
    """Whether the node still has power, cheaper than reading the whole process table again."""
    return _is_unshare(_arguments(Path("/proc", str(process.parent))))


def cut(process: Running) -> None:
    """Cut the power: everything in the node dies at once, without a chance to tidy up."""
    try:
        descriptor = os.pidfd_open(process.parent)
    except ProcessLookupError:
        return
    try:
        with suppress(ProcessLookupError):
            os.kill(process.init or process.parent, signal.SIGKILL)
        _wait(process.parent, descriptor)
    finally:
        os.close(descriptor)


def _wait(pid: int, descriptor: int) -> None:
    """Wait until the process is gone; the kernel ends it after everything in its PID namespace."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if not poll.poll(KILL_S * 1000):
        raise ClusterctlError(f"process {pid} did not die within {KILL_S:g} s of SIGKILL", hint="see `dmesg`")
    with suppress(ChildProcessError):  # it is our child when this very process started it
        os.waitpid(pid, 0)


def _look(paths: LabPaths, process: Path) -> tuple[str, Running] | None:
    """The node that a process is the parent of, if it is one of this lab's."""
    argv = _arguments(process)
    if not _is_unshare(argv):
        return None
    for argument in argv:
        path = Path(os.fsdecode(argument))
        if path.name == INIT and path.parent.parent == paths.nodes:
            return path.parent.name, Running(int(process.name), _only_child(process))
    return None


def _arguments(process: Path) -> list[bytes]:
    try:
        return (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _is_unshare(argv: list[bytes]) -> bool:
    return bool(argv) and argv[0].rsplit(b"/", 1)[-1] == b"unshare"


def _only_child(process: Path) -> int | None:
    """The init below an `unshare`; None while it has not forked yet."""
    try:
        children = (process / "task" / process.name / "children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if children else None
