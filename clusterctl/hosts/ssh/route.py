"""The way to each node, from the inventory and ssh_config together, before anything is connected to.

Where this machine has OpenSSH's client, `ssh -G` reads ssh_config; elsewhere paramiko does, and what it reads
in another way is named. Either is asked for each jump host too, as ssh does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from clusterctl.errors import ClusterctlError, UsageError
from clusterctl.hosts.ssh import openssh, without_client
from clusterctl.hosts.ssh.asked import Asked, asked_of
from clusterctl.hosts.ssh.openssh import Answer
from clusterctl.hosts.ssh.settings import Settings, settings_of
from clusterctl.inventory.model import Node, SshDefaults, Timeouts

LEAST_S = 15
"""Seconds that ssh_config may take to be read, where timeouts.connect_s is less: `Match exec` runs commands."""

SHOWN = 4
"""Nodes that are named where something holds for many."""

AT_ONCE = 16
"""Nodes that are asked about at once: each is a process of this machine."""


@dataclass(frozen=True)
class Route:
    """The way to a node."""

    hops: tuple[Settings, ...]
    """The node itself, then the jump host before it, and so on to the one that is connected to first."""
    unread: tuple[str, ...]
    """Where OpenSSH would read something else of ssh_config."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What ssh_config says and is not followed, in words."""
        return (*self.unread, *dict.fromkeys(note for hop in self.hops for note in hop.not_followed))


@dataclass(frozen=True)
class _Reader:
    """One of the two ways to read ssh_config."""

    answer: Callable[[Asked], Answer]
    defaults: Answer
    unread: tuple[str, ...]


def _reader(config: Path | None, timeouts: Timeouts) -> _Reader:
    ssh = openssh.client()
    if ssh is None:
        reading = without_client.read(config)
        return _Reader(reading.answer, {}, reading.differences)
    deadline_s = max(LEAST_S, timeouts.connect_s)
    return _Reader(lambda asked: openssh.ask(ssh, asked, deadline_s), openssh.defaults(ssh), ())


def routes(nodes: Iterable[Node], ssh: SshDefaults, timeouts: Timeouts) -> Mapping[str, Route]:
    """The way to each of these nodes by name, this machine itself left out.

    Raises UsageError for what OpenSSH refuses, and for jump hosts that go round in a circle.
    """
    remote = [node for node in nodes if not node.is_this_machine]
    if not remote:
        return {}
    reader = _reader(ssh.config, timeouts)
    with ThreadPoolExecutor(min(len(remote), AT_ONCE), thread_name_prefix="ssh-config") as pool:
        found = [pool.submit(_route, node, asked_of(node, ssh), reader) for node in remote]
        return {node.name: future.result() for node, future in zip(remote, found, strict=True)}


def told(found: Mapping[str, Route]) -> list[str]:
    """What ssh_config says and is not followed, each once, with the nodes that it is about."""
    about: dict[str, list[str]] = {}
    for name, route in found.items():
        for note in dict.fromkeys(route.notes):
            about.setdefault(note, []).append(name)
    every = len(found)
    return [
        f"ssh_config{'' if len(names) == every else f' for {_few(names)}'}: {note}" for note, names in about.items()
    ]


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= SHOWN else f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN} more"


def _route(node: Node, asked: Asked, reader: _Reader) -> Route:
    try:
        return Route(_hops(asked, reader), reader.unread)
    except ClusterctlError as error:
        error.node = node.name
        raise


def _hops(asked: Asked, reader: _Reader) -> tuple[Settings, ...]:
    hops: list[Settings] = []
    seen: list[Asked] = []
    wanted: Asked | None = asked
    while wanted is not None:
        if wanted in seen:
            raise _circle([*seen, wanted])
        seen.append(wanted)
        try:
            hop = settings_of(wanted, reader.answer(wanted), reader.defaults)
        except openssh.JumpLoopError as error:
            raise _circle([*seen, wanted]) from error
        hops.append(hop)
        wanted = wanted.through(hop.jump, own=wanted.jump is not None) if hop.jump else None
    return tuple(hops)


def _circle(seen: list[Asked]) -> UsageError:
    last = seen[-1].host
    return UsageError(
        f"its jump hosts go round in a circle: {' → '.join(asked.host for asked in seen)}",
        hint=f"ssh_config gives the jump host {last} a jump host too (ProxyJump under `Host *`?); write above it: "
        f"Host {last}, and under that ProxyJump none",
    )
