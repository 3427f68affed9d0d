"""All nodes at once: one Host per node (its SSH connection and its engine), and work on all of them in parallel."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import InitVar, dataclass, field
from functools import partial
from types import TracebackType
from typing import Generic, Self, TypeVar

import httpx

from clusterctl.errors import ClusterctlError, NodeFailure, NodesError
from clusterctl.hosts.connection import Connection
from clusterctl.hosts.engine.docker import DockerEngine
from clusterctl.hosts.engine.engine import Engine
from clusterctl.hosts.engine.podman import PodmanEngine
from clusterctl.hosts.http import client_over, pinned
from clusterctl.hosts.local.connection import LocalConnection
from clusterctl.hosts.ssh.connection import SshConnection
from clusterctl.hosts.ssh.errors import ConnectError, HostError
from clusterctl.hosts.ssh.route import Route, routes
from clusterctl.inventory.model import Inventory, Node

T = TypeVar("T")

TURN_S = 0.5
"""Seconds after which a waiting main thread looks whether it was interrupted."""

MAX_PARALLEL = 64
"""Nodes worked on at once. Threads mostly wait; 64 is far above any gang that one vLLM endpoint spans today."""


def connection_of(
    inventory: Inventory, node: Node, *, accept_new_host_keys: bool, route: Route | None = None
) -> Connection:
    """The way to a node: the one place that chooses which it is."""
    if node.is_this_machine:
        return LocalConnection(node, inventory.timeouts)
    return SshConnection(
        node, inventory.ssh, inventory.timeouts, accept_new_host_keys=accept_new_host_keys, route=route
    )


def engine_of(connection: Connection, inventory: Inventory) -> Engine:
    """The node's container engine, over its connection: the one place that chooses which it is."""
    door = PodmanEngine if inventory.container.engine == "podman" else DockerEngine
    return door(connection, sudo=inventory.container.sudo, timeout_s=inventory.timeouts.command_s)


class Host:
    """One node: its name, the connection to it, its engine."""

    def __init__(
        self, inventory: Inventory, node: Node, *, accept_new_host_keys: bool, route: Route | None = None
    ) -> None:
        self.name = node.name
        self.connection = connection_of(inventory, node, accept_new_host_keys=accept_new_host_keys, route=route)
        self.engine = engine_of(self.connection, inventory)

    def http(
        self, base_url: str, *, timeout_s: float, key: bytes | None = None, certificate: bytes | None = None
    ) -> httpx.Client:
        """An HTTP client whose connections start on this node; time-out in seconds.

        It sends `key` as a bearer token. To an https URL it trusts exactly `certificate` (PEM), else what this machine
        trusts. Raises ValueError for a certificate that is none.
        """
        tls = pinned(certificate) if certificate is not None else None
        return client_over(self.connection, base_url, timeout_s=timeout_s, key=key, tls=tls)

    def close(self) -> None:
        """Close everything that is open to this node."""
        self.engine.close()
        self.connection.close()


@dataclass(frozen=True)
class Outcomes(Generic[T]):
    """What became of one piece of work on each node, in inventory order. A failure on one hides no other."""

    values: Mapping[str, T]
    errors: Mapping[str, ClusterctlError]

    def or_raise(self, stage: str) -> Mapping[str, T]:
        """The values, if every node succeeded. Raises NodesError, which lists every node that did not."""
        if self.errors:
            raise NodesError(stage, [NodeFailure(node, e.message, e.hint) for node, e in self.errors.items()])
        return self.values


@dataclass
class Hosts:
    """The connections of one run. A context manager: leaving it closes every connection."""

    declared: InitVar[Inventory]
    """Whom to connect to, and how. What is to be served is no business of the connections: it is not kept."""
    accept_new_host_keys: bool = False
    only: Container[str] | None = None
    """Names of the nodes to connect to; None is all of them."""
    connected: dict[str, Host] = field(default_factory=dict)
    """Nodes that answered, in inventory order."""
    unreachable: dict[str, ConnectError] = field(default_factory=dict)
    """Nodes that did not, each with the reason."""
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    """What tells this run from others, in the names of what it starts for a moment."""

    def __post_init__(self, declared: Inventory) -> None:
        self._head = declared.head_name
        self._nodes = {node.name: node for node in declared.nodes if self.only is None or node.name in self.only}
        self._host = partial(Host, declared, accept_new_host_keys=self.accept_new_host_keys)
        self._ask_routes = partial(routes, ssh=declared.ssh, timeouts=declared.timeouts)
        self._routes: Mapping[str, Route] | None = None

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The nodes to connect to, by name, in inventory order."""
        return self._nodes

    @property
    def routes(self) -> Mapping[str, Route]:
        """The way to each node that is reached over SSH, by name: asked for once.

        Raises UsageError for an ssh_config that OpenSSH refuses.
        """
        if self._routes is None:
            self._routes = self._ask_routes(self._nodes.values())
        return self._routes

    def __enter__(self) -> Self:
        self.connected = {}
        self._connect_missing()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        each(self.connected, lambda host: host.close())

    @property
    def head(self) -> Host:
        """The head's connection. Raises its ConnectError when it was not reached."""
        return self.one(self._head)

    def one(self, name: str) -> Host:
        """A node's connection. Raises its ConnectError when it was not reached."""
        if name in self.unreachable:
            raise self.unreachable[name]
        return self.connected[name]

    def reconnect(self, silent: Collection[str] = ()) -> None:
        """Open again what was not reached, or is not open any more, all at once; `connected` and `unreachable` say what
        became of it.

        `silent` names nodes that did not answer though their connection seems to stand: a machine without power does
        not hang up. A node that stays away takes `timeouts.connect_s`.
        """
        lost = {name: host for name, host in self.connected.items() if name in silent or not host.connection.is_open}
        each(lost, Host.close)
        self.connected = {name: host for name, host in self.connected.items() if name not in lost}
        self._connect_missing()

    def _connect_missing(self) -> None:
        """Every wanted node is in `connected` or in `unreachable` afterwards, in inventory order."""
        missing = {name: node for name, node in self._nodes.items() if name not in self.connected}
        fresh = {name: self._host(node, route=self.routes.get(name)) for name, node in missing.items()}
        errors = each(fresh, lambda host: host.connection.open()).errors
        hosts = {**fresh, **self.connected}
        self.connected = {name: hosts[name] for name in self._nodes if name not in errors}
        self.unreachable = {name: _not_reached(name, error) for name, error in errors.items()}

    def give_up(self, name: str, error: ClusterctlError) -> None:
        """From here on the node counts as one that was not reached: it answers no more, and nothing touches it."""
        self.connected.pop(name).close()
        self.unreachable[name] = _not_reached(name, error)

    def each(
        self,
        work: Callable[[Host], T],
        names: Iterable[str] | None = None,
        *,
        waiting_for: Callable[[Sequence[str]], None] | None = None,
    ) -> Outcomes[T]:
        """Do one thing on every connected node (or the named ones) at once; finish on all before returning.

        `waiting_for` is told, whenever a node is done, which ones are not (from the node's own thread).
        """
        wanted = self.connected if names is None else {name: self.connected[name] for name in names}
        return each(wanted, work, waiting_for)


def each(
    hosts: Mapping[str, Host], work: Callable[[Host], T], waiting_for: Callable[[Sequence[str]], None] | None = None
) -> Outcomes[T]:
    """Run `work` for every host at once. ClusterctlErrors become outcomes; anything else is a bug and is raised."""
    if not hosts:
        return Outcomes({}, {})
    values: dict[str, T] = {}
    errors: dict[str, ClusterctlError] = {}
    pool = ThreadPoolExecutor(max_workers=min(len(hosts), MAX_PARALLEL), thread_name_prefix="node")
    try:
        futures = {name: pool.submit(work, host) for name, host in hosts.items()}
        if (tell := waiting_for) is not None:
            for future in futures.values():
                future.add_done_callback(lambda _: tell([n for n, other in futures.items() if not other.done()]))
        for name, future in futures.items():
            try:
                values[name] = _result(future)
            except ClusterctlError as error:
                errors[name] = (
                    error if isinstance(error, HostError) else HostError(name, error.message, hint=error.hint)
                )
    finally:
        # Not waited for: every result is in by now, or Ctrl-C came and a hung node must not hold it up.
        pool.shutdown(wait=False, cancel_futures=True)
    return Outcomes(values, errors)


def _not_reached(name: str, error: ClusterctlError) -> ConnectError:
    """The error as one of a node that was not reached, whatever it was: its message and its fix stay."""
    return error if isinstance(error, ConnectError) else ConnectError(name, error.message, hint=error.hint)


def _result(future: Future[T]) -> T:
    """Its result, waited for in short turns: Python delivers Ctrl-C to a thread that waits for a lock only between
    them (seen with 3.11)."""
    while True:
        try:
            return future.result(timeout=TURN_S)
        except TimeoutError:
            if future.done():  # the work itself timed out
                raise
