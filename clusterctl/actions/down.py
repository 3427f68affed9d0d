"""`down`: the server first, then Ray, then the containers; and the proof that everything is gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clusterctl.agent.labels import LABEL_ROLE
from clusterctl.apply.cache import cache_volume, remove_cache
from clusterctl.apply.gone import verify_gone
from clusterctl.apply.shutdown import Member, shut_down
from clusterctl.errors import ClusterctlError, NodeFailure, NodesError
from clusterctl.facts.gather import gather
from clusterctl.hosts.engine.engine import Container
from clusterctl.hosts.host import Host
from clusterctl.inventory.model import Inventory
from clusterctl.lock.run import Run

UNSURE = "its processes could not be listed before, so it is not known whether they still hold GPU memory"


@dataclass(frozen=True)
class DownResult:
    """What `down` removed: node name → containers; all of it is verified to be gone."""

    cluster: str
    removed: Mapping[str, tuple[str, ...]]
    seconds: float
    kept: Mapping[str, str]
    """Node name → the volume of compiled code that stays on it for the next start (`down --purge` removes it)."""
    purged: Mapping[str, str]
    """Node name → the volume that was removed from it, and is verified to be gone."""


def down(run: Run, *, drain_s: float | None = None, purge: bool = False) -> DownResult:
    """Remove everything with the cluster's label on every node that can be reached, and verify it; with `purge` also
    the compiled code that the nodes keep.

    `drain_s` seconds are given to running requests (default: timeouts.drain_s).

    Raises NodesError that names each node that was not reached, could not be cleaned, or still holds something:
    what could be removed elsewhere is removed all the same.
    """
    hosts, inventory, progress = run.hosts, run.inventory, run.progress
    progress.phase("reading what runs")
    found = hosts.each(lambda host: host.engine.containers(inventory.cluster))
    before = gather(hosts, inventory)
    owned = hosts.each(lambda host: host_pids(host, found.values[host.name]), found.values)
    failures: dict[str, ClusterctlError] = {**hosts.unreachable, **found.errors}

    run.lock.ensure()
    gang = {name: tuple(_member(c) for c in containers) for name, containers in found.values.items()}
    drain_s = inventory.timeouts.drain_s if drain_s is None else drain_s
    failures |= shut_down(run, gang, drain_s=drain_s)
    progress.phase("removing containers")
    run.lock.ensure()
    failures |= hosts.each(lambda host: _remove(host, found.values[host.name]), found.values).errors
    progress.phase("verifying that everything is gone")
    left = verify_gone(run, before, found.values, owned.values)
    keep = remove_cache if purge else cache_volume
    volumes = hosts.each(lambda host: keep(host, inventory), found.values)
    failures = {**volumes.errors, **failures}

    problems = [NodeFailure(name, error.message, error.hint) for name, error in _in_order(inventory, failures)]
    problems += [NodeFailure(name, what, fix) for name, what, fix in left]
    problems += [NodeFailure(name, f"{UNSURE}: {error.message}", error.hint) for name, error in owned.errors.items()]
    if problems:
        raise NodesError("down", problems)
    removed = {name: tuple(c.name for c in containers) for name, containers in found.values.items()}
    caches = {name: volume.name for name, volume in volumes.values.items() if volume is not None}
    kept, purged = ({}, caches) if purge else (caches, {})
    return DownResult(inventory.cluster, removed, round(run.laps.total_s, 2), kept, purged)


def _in_order(inventory: Inventory, failures: Mapping[str, ClusterctlError]) -> list[tuple[str, ClusterctlError]]:
    return [(node.name, failures[node.name]) for node in inventory.nodes if node.name in failures]


def _member(container: Container) -> Member:
    return Member(container.id, container.labels.get(LABEL_ROLE, ""), container.running)


def _remove(host: Host, containers: tuple[Container, ...]) -> None:
    for container in containers:
        host.engine.remove(container.id)


def host_pids(host: Host, containers: tuple[Container, ...]) -> frozenset[int]:
    """Process ids, on the node, of everything that runs in these containers."""
    return frozenset(pid for container in containers if container.running for pid in host.engine.pids(container.id))
