"""Rules for ports: each is used once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from clusterctl.inventory.issue import Issue, KeyPath, listed, path_text
from clusterctl.inventory.model import RayPorts, Serve
from clusterctl.inventory.raw import dig, entries, size, whole

SMALLEST_WORKER_PORT = 1024
"""Ray refuses worker ports below it."""


# Ports.


@dataclass(frozen=True)
class Listener:
    """Ports that something on a node listens on, and whether the file says so."""

    path: KeyPath
    first: int
    last: int
    given: bool

    @property
    def ports(self) -> str:
        """As messages show them."""
        return str(self.first) if self.first == self.last else f"{self.first}–{self.last}"


def ports(data: object) -> Iterator[Issue]:
    """On the head everything listens, so no two may share a port (F43, F57)."""
    taken: dict[Listener, list[str]] = {}
    for one, other in itertools.combinations(listeners(data), 2):
        if one.last < other.first or other.last < one.first:
            continue
        at, against = (other, one) if other.given else (one, other)
        by_default = "" if against.given else " by default"
        taken.setdefault(at, []).append(f"{path_text(against.path)} has {against.ports}{by_default}")
    for at, others in taken.items():
        yield Issue(at.path, f"{at.ports} is already taken: {listed(others, 'and')}", "give each its own ports")


def listeners(data: object) -> Iterator[Listener]:
    """Everything that listens, with defaults filled in. What is not a port is left out."""
    for name in RayPorts.model_fields:
        if name != "workers":
            yield from single_port(data, ("ray", "ports", name), getattr(RayPorts(), name))
    workers = worker_range(data)
    if workers is not None and workers.first <= workers.last:
        yield workers
    yield from single_port(data, ("serve", "port"), Serve().port)


def single_port(data: object, place: KeyPath, default: int) -> Iterator[Listener]:
    """One port, from the file or by default."""
    given = place[-1] in entries(dig(data, *place[:-1]))
    port = whole(dig(data, *place)) if given else default
    if port is not None:
        yield Listener(place, port, port, given)


def worker_range(data: object) -> Listener | None:
    """The workers' ports; None when the file does not give them rightly."""
    place = ("ray", "ports", "workers")
    if "workers" not in entries(dig(data, "ray", "ports")):
        return Listener(place, RayPorts().workers.first, RayPorts().workers.last, given=False)
    first, last = whole(dig(data, *place, "first")), whole(dig(data, *place, "last"))
    return None if first is None or last is None else Listener(place, first, last, given=True)


def worker_ports(data: object) -> Iterator[Issue]:
    """The range must be one, and hold a process for each accelerator and the server."""
    workers = worker_range(data)
    if workers is None:
        return
    needed = (accelerators_needed(data) or 1) + 1
    size = workers.last - workers.first + 1
    if size <= 0:
        yield Issue(workers.path, f"first {workers.first} is above last {workers.last}", "swap them")
    elif workers.first < SMALLEST_WORKER_PORT:
        yield Issue(workers.path, f"starts at {workers.first}, but Ray refuses ports below {SMALLEST_WORKER_PORT}")
    elif size < needed:
        message = (
            f"has {size} ports, but a node needs at least {needed}: one for each accelerator and one for the server"
        )
        yield Issue(workers.path, message, "use a few hundred: Ray also keeps an idle worker for each CPU core")


def accelerators_needed(data: object) -> int | None:
    """Accelerators of one node, if the file gives them."""
    per_node = size(data, "accelerator", "per_node")
    return None if per_node == "auto" else per_node
