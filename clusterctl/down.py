"""`down`: the server first, then Ray, then the containers; and the proof that everything is gone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from clusterctl.errors import ClusterctlError, NodeFailure, NodesError
from clusterctl.facts.gather import gather
from clusterctl.facts.model import ClusterFacts, NodeFacts, Unknown
from clusterctl.findings.rules.network import ports_of
from clusterctl.hosts.host import Host, Hosts
from clusterctl.inventory.model import Inventory
from clusterctl.lock import ClusterLock
from clusterctl.planning.container import LABEL_ROLE
from clusterctl.shutdown import Member, shut_down
from clusterctl.ui.progress import Progress

SETTLE_S = 15
"""Seconds that the kernel and the driver get to close ports and free GPU memory after the last process has ended."""
RECHECK_S = 0.2
UNSURE = "its processes could not be listed before, so it is not known whether they still hold GPU memory"


@dataclass(frozen=True)
class DownResult:
    """What `down` removed: node name → containers; all of it is verified to be gone."""

    cluster: str
    removed: Mapping[str, tuple[str, ...]]
    seconds: float


Containers = Mapping[str, tuple[dict[str, Any], ...]]


def down(hosts: Hosts, progress: Progress, lock: ClusterLock, *, by: str, drain_s: float | None = None) -> DownResult:
    """Remove everything with the cluster's label on every node that can be reached, and verify it.

    `by` is who asks, for the record; `drain_s` seconds are given to running requests (default: timeouts.drain_s).

    Raises NodesError that names each node that was not reached, could not be cleaned, or still holds something:
    what could be removed elsewhere is removed all the same.
    """
    began = time.monotonic()
    progress.phase("looking at what runs")
    found = hosts.each(lambda host: host.engine.containers(hosts.inventory.cluster))
    before = gather(hosts)
    owned = hosts.each(lambda host: host_pids(host, found.values[host.name]), found.values)
    failures: dict[str, ClusterctlError] = {**hosts.unreachable, **found.errors}

    lock.ensure()
    gang = {name: tuple(_member(c) for c in containers) for name, containers in found.values.items()}
    drain_s = hosts.inventory.timeouts.drain_s if drain_s is None else drain_s
    failures |= shut_down(hosts, gang, progress, by=by, drain_s=drain_s)
    progress.phase("removing containers")
    lock.ensure()
    failures |= hosts.each(lambda host: _remove(host, found.values[host.name]), found.values).errors
    progress.phase("verifying that everything is gone")
    left = _verify(hosts, before, found.values, owned.values)

    problems = [NodeFailure(name, error.message, error.hint) for name, error in _in_order(hosts.inventory, failures)]
    problems += [NodeFailure(name, what, fix) for name, what, fix in left]
    problems += [NodeFailure(name, f"{UNSURE}: {error.message}", error.hint) for name, error in owned.errors.items()]
    if problems:
        raise NodesError("down", problems)
    removed = {name: tuple(c["Name"].lstrip("/") for c in containers) for name, containers in found.values.items()}
    return DownResult(hosts.inventory.cluster, removed, round(time.monotonic() - began, 2))


def _in_order(inventory: Inventory, failures: Mapping[str, ClusterctlError]) -> list[tuple[str, ClusterctlError]]:
    return [(node.name, failures[node.name]) for node in inventory.nodes if node.name in failures]


def _member(inspected: Mapping[str, Any]) -> Member:
    role = str((inspected["Config"].get("Labels") or {}).get(LABEL_ROLE, ""))
    return Member(str(inspected["Id"]), role, bool(inspected["State"]["Running"]))


def _remove(host: Host, containers: tuple[dict[str, Any], ...]) -> None:
    for container in containers:
        host.engine.remove(container["Id"])


def host_pids(host: Host, containers: tuple[dict[str, Any], ...]) -> frozenset[int]:
    """Process ids, on the node, of everything that runs in these containers."""
    return frozenset(
        pid for container in containers if container["State"]["Running"] for pid in host.engine.pids(container["Id"])
    )


def _verify(
    hosts: Hosts, before: ClusterFacts, containers: Containers, owned: Mapping[str, frozenset[int]]
) -> list[tuple[str, str, str]]:
    """Look again until nothing is left or the deadline passes; what is left, as (node, what, fix)."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        facts = gather(hosts)
        left = [
            (name, what, fix)
            for name, after in facts.nodes.items()
            for what, fix in remains(
                before.nodes.get(name),
                after,
                ports=set(ports_of(hosts.inventory, name)) if _any_running(containers.get(name, ())) else set(),
                pids=owned.get(name, frozenset()),
            )
        ]
        left += [
            (name, node.reason, node.fix or "")
            for name, node in facts.unreachable.items()
            if name not in hosts.unreachable
        ]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(RECHECK_S)


def _any_running(containers: tuple[dict[str, Any], ...]) -> bool:
    return any(container["State"]["Running"] for container in containers)


def remains(
    before: NodeFacts | None, after: NodeFacts, *, ports: AbstractSet[int], pids: AbstractSet[int]
) -> list[tuple[str, str]]:
    """What of the cluster is still on a node: containers, those of `ports` that were listened on before and still are
    (all that are listened on now, when the node could not be read before), GPU memory held by `pids`."""
    left: list[tuple[str, str]] = []
    if isinstance(after.containers, Unknown):
        left.append((f"cannot verify that its containers are gone: {after.containers.reason}", "run down again"))
    else:
        left += [
            (f"container {c.name} is still there ({c.status})", f"docker rm -f {c.name}") for c in after.containers
        ]
    left += _ports_left(before, after, ports)
    if isinstance(after.gpu_processes, Unknown):
        left.append((f"cannot verify that GPU memory is free: {after.gpu_processes.reason}", "nvidia-smi on the node"))
    elif after.gpu_processes is not None:
        left += [
            (f"process {p.pid} ({p.name}) still holds GPU memory", "on the node: nvidia-smi; wait, or kill it")
            for p in after.gpu_processes
            if p.pid in pids
        ]
    return left


def _ports_left(before: NodeFacts | None, after: NodeFacts, ports: AbstractSet[int]) -> list[tuple[str, str]]:
    if isinstance(after.listeners, Unknown):
        unread = f"cannot verify that its ports are closed: {after.listeners.reason}"
        return [(unread, "on the node: ss -ltnp")] if ports else []
    listeners = before.listeners if before is not None else Unknown("the node could not be read")
    listened = ports if isinstance(listeners, Unknown) else {listener.port for listener in listeners}
    return [
        (f"port {port} is still listened on", f"on the node: ss -ltnp 'sport = :{port}'")
        for port in sorted({listener.port for listener in after.listeners} & listened & ports)
    ]
