"""Is a node's sshd answering, is its engine? Asked from this machine, over the doors that a user's tools take."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from clusterctl.errors import ClusterctlError
from clusterctl.lab import power
from clusterctl.lab.state import LabNode, LabPaths, LabSpec

READY_S = 60.0
"""From power-on until sshd and the engine answer. About 2 s alone; many engines that start at once need longer."""

SOCKETS = {"docker": "docker.sock", "podman": "podman/podman.sock"}
"""Where an engine listens, below /run."""


def wait(paths: LabPaths, spec: LabSpec, node: LabNode, process: power.Running, *, reachable: bool) -> None:
    """Wait until the node answers; fail at once when it loses power. A time-out is a failure with the node's last log.

    A node whose cable is pulled (not `reachable`) cannot answer on the network; only its engine is waited for.
    """
    deadline = time.monotonic() + READY_S
    while missing := problem(spec, node, process, reachable=reachable):
        if not power.is_on(process):
            raise ClusterctlError(f"{node.name} lost power while booting{last_lines(paths, node)}")
        if time.monotonic() > deadline:
            raise ClusterctlError(
                f"{node.name} is not ready after {READY_S:g} s: {missing}{last_lines(paths, node)}",
                hint=f"if its disk is damaged: clusterctl lab down --name {spec.name}, then `lab up` again",
            )
        time.sleep(0.05)


def problem(spec: LabSpec, node: LabNode, process: power.Running, *, reachable: bool = True) -> str | None:
    """Why a node that has power is not ready; None when it is."""
    return (reachable and ssh_problem(node)) or (None if spec.ssh_only else engine_problem(spec, process)) or None


def ssh_problem(node: LabNode, *, timeout_s: float = 2.0) -> str | None:
    """Why sshd on the node does not answer; None when it does."""
    try:
        with socket.create_connection((str(node.address), 22), timeout=timeout_s) as connection:
            banner = connection.recv(64)
    except OSError as error:
        return f"sshd on {node.address}:22: {error}"
    return None if banner.startswith(b"SSH-2.0-") else f"sshd on {node.address}:22 sent {banner!r}"


def engine_problem(spec: LabSpec, process: power.Running, *, timeout_s: float = 5.0) -> str | None:
    """Why the node's container engine does not answer; None when it does.

    Its socket is inside the node; `/proc/<pid>/root` is the way in from this machine.
    """
    if process.init is None:
        return "the node's first process has not started yet"
    path = Path(f"/proc/{process.init}/root/run/{SOCKETS[spec.engine]}")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            answer = connection.recv(64)
    except OSError as error:
        return f"{spec.engine}: {error}"
    return None if b" 200 " in answer else f"{spec.engine} answered {answer!r}"


def last_lines(paths: LabPaths, node: LabNode, count: int = 8) -> str:
    """The last lines of the node's logs, for an error message."""
    logs = (paths.node(node.name) / "console.log", *sorted((paths.disk(node.name) / "var/log").glob("*.log")))
    parts = []
    for log in logs:
        try:
            lines = log.read_text(errors="replace").splitlines()[-count:]
        except OSError:
            continue
        if lines:
            parts.append(f"\n  {log}:\n" + "\n".join(f"    {line}" for line in lines))
    return "".join(parts)
