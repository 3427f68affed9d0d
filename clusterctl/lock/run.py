"""One run of a command that changes the cluster: what everything it does has in common."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from clusterctl.hosts.host import Hosts
from clusterctl.inventory.model import Inventory
from clusterctl.lock.cluster import ClusterLock, cluster_lock
from clusterctl.lock.operator import whoami
from clusterctl.progress import Progress


class Laps:
    """How long the phases of a run take, in seconds."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def end(self, phase: str) -> None:
        """A phase ends here; it began where the one before it ended."""
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now

    @property
    def total_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began


@dataclass(frozen=True)
class Run:
    """What is asked for, connections, where progress is reported, the lock that is held, and by whom."""

    hosts: Hosts
    inventory: Inventory
    progress: Progress
    lock: ClusterLock
    by: str
    """Who asks, for the record: user@host."""
    laps: Laps


@contextmanager
def locked_run(
    hosts: Hosts, inventory: Inventory, command: str, progress: Progress, *, wait_s: float | None
) -> Iterator[Run]:
    """A run that holds the cluster's lock on every connected node, until the block ends.

    `command` and `wait_s`, and what it raises: see `cluster_lock`.
    """
    laps = Laps()
    with cluster_lock(hosts, inventory.cluster, command, wait_s=wait_s, progress=progress) as lock:
        yield Run(hosts, inventory, progress, lock, whoami(), laps)
