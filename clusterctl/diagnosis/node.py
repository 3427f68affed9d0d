"""What is being collected of one node, and how much of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clusterctl.diagnosis.bundle import MIB
from clusterctl.hosts.engine.engine import Container
from clusterctl.hosts.host import Host


@dataclass(frozen=True)
class Limits:
    """How much, and how long (seconds)."""

    log_bytes: int = 20 * MIB
    """Of each stream of each container's log, from its end."""
    ray_bytes: int = 30 * MIB
    """Of Ray's session logs on a node, all files together."""
    ray_file_bytes: int = 4 * MIB
    """Of each of Ray's files, from its end."""
    item_s: float = 15.0
    """For one piece from one node."""
    total_s: float = 120.0
    """For everything."""


THOROUGH = Limits()


AFTER_FAILURE = Limits(log_bytes=5 * MIB, ray_bytes=8 * MIB, ray_file_bytes=MIB, item_s=10.0, total_s=30.0)
"""Somebody waits for the message of a failed start, and what it started waits to be removed."""


@dataclass
class NodeCollection:
    """What is known of one node while it is asked."""

    host: Host
    answers: bool = False
    """Whether its SSH still answers: the connection may be older than the fault."""
    containers: tuple[Container, ...] | None = None
    secrets: list[str] = field(default_factory=list)
    sealed: set[str] = field(default_factory=set)
    """Containers whose secrets could not be read: what they wrote cannot be cleared of them."""
    logs: dict[str, str] = field(default_factory=dict)
    states: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    hangs: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    kernel: str = ""
    ray: dict[str, str] = field(default_factory=dict)


Job = tuple[str, Callable[[], None]]
"""What it is, and the work; the work puts its pieces into the store, or raises."""
