"""Whether what was stopped is gone: containers, GPU memory, ports."""

from __future__ import annotations

import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from clusterctl.deployment.executor import executor_of
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.gather import gather
from clusterctl.hosts.engine.engine import Container
from clusterctl.inventory.model import Inventory
from clusterctl.lock.run import Run
from clusterctl.modes.all import BY_NAME, possible_modes
from clusterctl.modes.mode import Mode

SETTLE_S = 15
"""Seconds that the kernel and the driver get to close ports and free GPU memory after the last process has ended."""


RECHECK_S = 0.2


Containers = Mapping[str, tuple[Container, ...]]


def verify_gone(
    run: Run, before: ClusterFacts, containers: Containers, owned: Mapping[str, frozenset[int]]
) -> list[tuple[str, str, str]]:
    """Look again until nothing is left or the deadline passes; what is left, as (node, what, fix)."""
    deadline = time.monotonic() + SETTLE_S
    possible = modes_seen(run.inventory, before)
    while True:
        facts = gather(run.hosts, run.inventory)
        left = [
            (name, what, fix)
            for name, after in facts.nodes.items()
            for what, fix in remains(
                before.nodes.get(name),
                after,
                ports={port for mode in possible for port in mode.ports(run.inventory, name)}
                if _any_running(containers.get(name, ()))
                else set(),
                pids=owned.get(name, frozenset()),
            )
        ]
        left += [
            (name, node.reason, node.fix or "")
            for name, node in facts.unreachable.items()
            if name not in run.hosts.unreachable
        ]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(RECHECK_S)


def modes_seen(inventory: Inventory, before: ClusterFacts) -> tuple[Mode, ...]:
    """The mode of what ran; where nothing tells, those that the inventory may mean."""
    running = executor_of(before)
    return (BY_NAME[running],) if running is not None else possible_modes(inventory)


def _any_running(containers: tuple[Container, ...]) -> bool:
    return any(container.running for container in containers)


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
            (f"container {c.name} is still there ({c.status})", after.commands.remove(c.name))
            for c in (*after.containers, *after.beside)
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
