"""`logs`: the containers' logs, each line with its node's name, in one stream."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from clusterctl.errors import ClusterctlError, NodeFailure, NodesError, UsageError
from clusterctl.events import Lines
from clusterctl.hosts.host import Host, Hosts
from clusterctl.inventory.model import Inventory
from clusterctl.planning.paths import container_name


def chosen_nodes(inventory: Inventory, nodes: Sequence[str]) -> Sequence[str]:
    """The named nodes in inventory order, all when none is named. Raises UsageError for an unknown name."""
    known = [node.name for node in inventory.nodes]
    if unknown := [name for name in nodes if name not in known]:
        raise UsageError(f"no node {unknown[0]} in the inventory", hint=f"nodes: {', '.join(known)}")
    return [name for name in known if not nodes or name in nodes]


def show_logs(
    hosts: Hosts, chosen: Sequence[str], *, follow: bool, tail: int | None, write: Callable[[str], None]
) -> None:
    """Write the log lines of the chosen nodes; with `follow`, until the containers end.

    Raises NodesError when a node was not reached or has no container.
    """
    failures = [NodeFailure(n, e.message, e.hint) for n, e in hosts.unreachable.items() if n in chosen]
    reached = [name for name in chosen if name in hosts.connected]
    width = max((len(name) for name in chosen), default=0)
    for name, line in _interleaved(hosts, reached, tail) if follow else _one_by_one(hosts, reached, tail, failures):
        write(f"{name:<{width}} | {line}" if len(chosen) > 1 else line)
    if failures:
        raise NodesError("logs", failures)


def _lines(host: Host, cluster: str, *, follow: bool, tail: int | None) -> Iterator[str]:
    lines = Lines()
    for chunk in host.engine.logs(container_name(cluster), follow=follow, tail=tail):
        yield from lines.feed(chunk)
    yield from lines.end()


def _one_by_one(
    hosts: Hosts, names: Sequence[str], tail: int | None, failures: list[NodeFailure]
) -> Iterator[tuple[str, str]]:
    for name in names:
        try:
            for line in _lines(hosts.connected[name], hosts.inventory.cluster, follow=False, tail=tail):
                yield name, line
        except ClusterctlError as error:
            failures.append(NodeFailure(name, error.message, error.hint))


def _interleaved(hosts: Hosts, names: Sequence[str], tail: int | None) -> Iterator[tuple[str, str]]:
    """Lines of all nodes as they come; ends when every container has ended."""
    lines: queue.Queue[tuple[str, str | None]] = queue.Queue()

    def read(host: Host) -> None:
        try:
            for line in _lines(host, hosts.inventory.cluster, follow=True, tail=tail):
                lines.put((host.name, line))
        except ClusterctlError as error:
            lines.put((host.name, f"clusterctl: {error.message}"))
        finally:
            lines.put((host.name, None))

    for name in names:
        threading.Thread(target=read, args=(hosts.connected[name],), daemon=True).start()
    open_streams = set(names)
    while open_streams:
        name, line = lines.get()
        if line is None:
            open_streams.discard(name)
        else:
            yield name, line
