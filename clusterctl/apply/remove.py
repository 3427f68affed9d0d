"""Remove containers that this run started or found."""

from __future__ import annotations

from collections.abc import Mapping

from clusterctl.errors import ClusterctlError
from clusterctl.hosts.host import Host
from clusterctl.lock.run import Run


def remove(run: Run, containers: Mapping[str, str]) -> Mapping[str, ClusterctlError]:
    """Remove these containers (node name → ID) by force, on all nodes at once; returns what could not be removed."""
    return run.hosts.each(lambda host: host.engine.remove(containers[host.name]), containers).errors


def note_leftovers(error: ClusterctlError, left: Mapping[str, ClusterctlError]) -> None:
    """Let the error also say where cleaning up after it failed."""
    if left:
        names = ", ".join(f"{name} ({reason.message})" for name, reason in left.items())
        error.message += f"\nand what was started could not be removed on: {names}"
        error.hint = f"{error.hint}; clusterctl down" if error.hint else "clusterctl down"


def remove_all(host: Host, containers: tuple[str, ...]) -> None:
    """Remove a node's containers, running or not."""
    for container in containers:
        host.engine.remove(container)
