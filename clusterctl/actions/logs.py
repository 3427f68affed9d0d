"""`logs`: the containers' logs, each line with its node's name, in one stream."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from clusterctl.actions.follow import comes_back
from clusterctl.errors import ClusterctlError, NodeFailure, NodesError, UsageError
from clusterctl.hosts.engine.lines import Lines
from clusterctl.hosts.host import Host, Hosts
from clusterctl.inventory.model import Inventory


def chosen_nodes(inventory: Inventory, nodes: Sequence[str]) -> Sequence[str]:
    """The named nodes in inventory order, all when none is named. Raises UsageError for an unknown name."""
    known = [node.name for node in inventory.nodes]
    if unknown := [name for name in nodes if name not in known]:
        raise UsageError(f"no node {unknown[0]} in the inventory", hint=f"nodes: {', '.join(known)}")
    return [name for name in known if not nodes or name in nodes]


def show_logs(
    hosts: Hosts, container: str, chosen: Sequence[str], *, follow: bool, tail: int | None, write: Callable[[str], None]
) -> None:
    """Write the log lines of the container on the chosen nodes; with `follow`, until it has ended everywhere and does
    not come back.

    Raises NodesError when a node was not reached, has no container, or its log cannot be read to its end.
    """
    failures = [NodeFailure(n, e.message, e.hint) for n, e in hosts.unreachable.items() if n in chosen]
    reached = [name for name in chosen if name in hosts.connected]
    width = max((len(name) for name in chosen), default=0)
    read = _interleaved if follow else _one_by_one
    for name, line in read([hosts.connected[name] for name in reached], container, tail, failures):
        write(f"{name:<{width}} | {line}" if len(chosen) > 1 else line)
    if failures:
        raise NodesError("logs", sorted(failures, key=lambda failure: chosen.index(failure.node)))


def _lines(host: Host, container: str, *, follow: bool, tail: int | None = None, since: float = 0) -> Iterator[str]:
    lines = Lines()
    for chunk in host.engine.logs(container, follow=follow, tail=tail, since=since):
        yield from lines.feed(chunk)
    yield from lines.end()


def _lines_of_all_lives(host: Host, name: str, tail: int | None) -> Iterator[str]:
    """Lines of a node's container as they come; those of its next life too, when the engine starts it again.

    Raises ClusterctlError, also when the log ends while the container runs.
    """
    found = host.engine.container(name)
    container = name if found is None else found.id  # one that takes its place is another one
    started = host.engine.started_at(container)
    yield from _lines(host, container, follow=True, tail=tail)
    while comes_back(host, container):
        before, started = started, host.engine.started_at(container)
        if started == before:
            raise ClusterctlError(
                "the log of its container ended while it runs (the engine restarted, or the connection broke)",
                hint=f"clusterctl logs --follow --node {host.name}",
            )
        yield from _lines(host, container, follow=True, since=started)


def _one_by_one(
    hosts: Sequence[Host], container: str, tail: int | None, failures: list[NodeFailure]
) -> Iterator[tuple[str, str]]:
    for host in hosts:
        try:
            for line in _lines(host, container, follow=False, tail=tail):
                yield host.name, line
        except ClusterctlError as error:
            failures.append(NodeFailure(host.name, error.message, error.hint))


def _interleaved(
    hosts: Sequence[Host], container: str, tail: int | None, failures: list[NodeFailure]
) -> Iterator[tuple[str, str]]:
    """Lines of all nodes as they come; ends when every container has ended for good."""
    lines: queue.Queue[tuple[str, str | None]] = queue.Queue()

    def read(host: Host) -> None:
        try:
            for line in _lines_of_all_lives(host, container, tail):
                lines.put((host.name, line))
        except ClusterctlError as error:
            failures.append(NodeFailure(host.name, error.message, error.hint))
        finally:
            lines.put((host.name, None))

    for host in hosts:
        threading.Thread(target=read, args=(host,), daemon=True).start()
    open_streams = {host.name for host in hosts}
    while open_streams:
        name, line = lines.get()
        if line is None:
            open_streams.discard(name)
        else:
            yield name, line
