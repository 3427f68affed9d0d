"""The only code that changes nodes: carries out a plan, stops and removes what carries the cluster's label."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from clusterctl.credentials import ApiKeys, ray_token
from clusterctl.errors import ClusterctlError
from clusterctl.facts.model import ClusterFacts, ContainerFacts
from clusterctl.hosts.engine import FileInContainer
from clusterctl.hosts.host import Host, Hosts, Outcomes
from clusterctl.lock import ClusterLock
from clusterctl.planning.container import LABEL_ROLE, LIVE_FILES, ContainerSpec
from clusterctl.planning.deployment import Deployment
from clusterctl.planning.paths import (
    ADOPTED_PATH,
    API_KEY_PATH,
    RAY_TOKEN_PATH,
    SERVER_PATH,
    SPEC_PATH,
)
from clusterctl.planning.plan import NodePlan, Plan
from clusterctl.shutdown import Member, ask_agent, shut_down
from clusterctl.ui.progress import Progress

PRIVATE_MODE = 0o600


def apply(
    hosts: Hosts,
    deployment: Deployment,
    plan: Plan,
    progress: Progress,
    lock: ClusterLock,
    *,
    keys: ApiKeys,
    by: str,
    drain_s: float,
    created: dict[str, str],
) -> None:
    """Carry out the plan on all nodes at once. `created` takes node name → ID of its new container as it happens, so
    that the caller can remove what was created when a stage fails elsewhere; nodes kept are not in it.

    Each stage ends on every node before the next begins, so that no node runs what another could not create. What is
    replaced is stopped in order, after `drain_s` seconds for running requests. `by` is who asks, for the record.

    Raises NodesError, which lists every node that failed, and LockLostError before a stage.
    """
    if not plan.new_gang:
        update(hosts, plan, keys=keys, by=by)
        return
    todo = {node.node: node for node in plan.nodes if node.new_container}
    secret_files = [
        FileInContainer(RAY_TOKEN_PATH, ray_token(deployment.inventory), PRIVATE_MODE),
        _key_file(keys.wanted),
    ]
    gang = {name: tuple(_member(container) for container in node.existing) for name, node in todo.items()}
    if any(member.running for members in gang.values() for member in members):
        failures = shut_down(hosts, gang, progress, by=by, drain_s=drain_s)
        Outcomes[None]({}, failures).or_raise("stopping old containers")
    lock.ensure()
    old = {name: tuple(container.id for container in node.existing) for name, node in todo.items()}
    hosts.each(lambda host: _remove_all(host, old[host.name]), todo).or_raise("removing old containers")
    progress.phase("starting containers")
    lock.ensure()

    def create(host: Host) -> None:
        created[host.name] = _create(host, deployment, todo[host.name], secret_files)

    hosts.each(create, todo).or_raise("creating containers")
    lock.ensure()
    hosts.each(lambda host: host.engine.start(created[host.name]), todo).or_raise("starting containers")


def update(hosts: Hosts, plan: Plan, *, keys: ApiKeys, by: str) -> None:
    """Replace files in containers that go on; ask the head's agent for a new server where that takes one.

    What a server is started with is recorded once it has been asked to start: cut off before, the next `up` asks again,
    instead of taking a server with the old options for one with the new. Raises NodesError; what was replaced by then
    is put back.
    """
    todo = {node.node: node for node in plan.nodes if node.action in ("update", "restart-server")}
    restarts = {name: node.existing[0].id for name, node in todo.items() if node.action == "restart-server"}

    def replace(host: Host) -> None:
        node = todo[host.name]
        files = [FileInContainer(path, text.encode()) for path, text in node.spec.live_files.items()]
        last = _key_file(keys.wanted) if host.name in restarts else _record(node.spec)
        host.engine.put_files(node.existing[0].id, [*files, last])

    try:
        hosts.each(replace, todo).or_raise("replacing files")
        restart_servers(hosts, restarts, by=by)
    except ClusterctlError as error:
        undone = hosts.each(lambda host: _put_back_files(host, todo[host.name], keys.held), _recorded(plan))
        if undone.errors:
            note = f"what is on {', '.join(undone.errors)} may be new already; clusterctl up"
            error.hint = f"{error.hint}; {note}" if error.hint else note
        raise

    def record(host: Host) -> None:
        host.engine.put_files(restarts[host.name], [_record(todo[host.name].spec)])

    hosts.each(record, restarts).or_raise("recording what the server was started with")


def restart_servers(hosts: Hosts, containers: Mapping[str, str], *, by: str) -> None:
    """Ask the agents in these containers (node name → ID) for a new server. Raises NodesError."""
    done = hosts.each(lambda host: ask_agent(host, containers[host.name], "restart", by=by), containers)
    done.or_raise("restarting the server")


def put_back(hosts: Hosts, plan: Plan, key: bytes | None, *, by: str) -> None:
    """Undo `update`: the files as they were, the API's key too, and a new server that reads them. Raises NodesError."""
    todo = _recorded(plan)
    restarts = {node.node: node.existing[0].id for node in plan.nodes if node.action == "restart-server"}
    hosts.each(lambda host: _put_back_files(host, todo[host.name], key), todo).or_raise("putting the files back")
    restart_servers(hosts, restarts, by=by)


def _recorded(plan: Plan) -> Mapping[str, NodePlan]:
    """The nodes whose files `update` replaces, as far as it is known what these were."""
    return {
        node.node: node
        for node in plan.nodes
        if node.action in ("update", "restart-server") and isinstance(node.existing[0].spec, Mapping)
    }


def _put_back_files(host: Host, node: NodePlan, key: bytes | None) -> None:
    spec = node.existing[0].spec
    contents = spec.get("file_contents") or {} if isinstance(spec, Mapping) else {}
    files = [FileInContainer(path, str(contents[path]).encode()) for path in LIVE_FILES if path in contents]
    record = FileInContainer(SPEC_PATH, json.dumps(spec, sort_keys=True).encode())
    keyed = [_key_file(key)] if node.action == "restart-server" else []
    host.engine.put_files(node.existing[0].id, [*files, *keyed, record])


def adopt(hosts: Hosts, containers: Mapping[str, str], policy: str) -> None:
    """The cluster has been seen to serve: from now on its agents heal, and the engines start what ends.

    `containers`: node name → ID, of all nodes. Raises NodesError. Doing it again is harmless; cut off between two
    nodes, the next `up` does it again (plan.py compares the policies).
    """

    def on_node(host: Host) -> None:
        host.engine.put_files(containers[host.name], [FileInContainer(ADOPTED_PATH, b"")])
        host.engine.set_restart_policy(containers[host.name], policy)

    hosts.each(on_node, containers).or_raise("turning supervision on")


def remove(hosts: Hosts, containers: Mapping[str, str]) -> Mapping[str, ClusterctlError]:
    """Remove these containers (node name → ID) by force, on all nodes at once; returns what could not be removed."""
    return hosts.each(lambda host: host.engine.remove(containers[host.name]), containers).errors


def remove_probes(hosts: Hosts, facts: ClusterFacts) -> None:
    """Remove what killed runs of clusterctl left of their probes; what cannot be removed holds nothing, and waits."""
    left = {name: node.leftovers for name, node in facts.nodes.items() if node.leftovers}

    def remove_left(host: Host) -> None:
        for container in left[host.name]:
            host.engine.remove(container, force=False)  # another run may have started it meanwhile

    hosts.each(remove_left, left)


def note_leftovers(error: ClusterctlError, left: Mapping[str, ClusterctlError]) -> None:
    """Let the error also say where cleaning up after it failed."""
    if left:
        names = ", ".join(f"{name} ({reason.message})" for name, reason in left.items())
        error.message += f"\nand what was started could not be removed on: {names}"
        error.hint = f"{error.hint}; clusterctl down" if error.hint else "clusterctl down"


def _member(container: ContainerFacts) -> Member:
    return Member(container.id, container.labels.get(LABEL_ROLE, ""), container.running)


def _remove_all(host: Host, containers: tuple[str, ...]) -> None:
    for container in containers:
        host.engine.remove(container)


def _create(host: Host, deployment: Deployment, node: NodePlan, secret_files: Sequence[FileInContainer]) -> str:
    spec = node.spec
    labels = spec.labels(deployment.inventory.cluster, deployment.places[host.name])
    container = host.engine.create(spec.name, {**spec.config, "labels": labels}, spec.host_config)
    try:
        # Files go into the container's own layer: they live and die with it, and nothing is left on the node.
        plain = [FileInContainer(path, text.encode()) for path, text in spec.files.items()]
        own = [file for file in secret_files if file.path != API_KEY_PATH or spec.files.get(SERVER_PATH)]
        host.engine.put_files(container, [*plain, _record(spec), *own])
    except BaseException:
        host.engine.remove(container)
        raise
    return container


def _record(spec: ContainerSpec) -> FileInContainer:
    """What the next plan compares with."""
    return FileInContainer(SPEC_PATH, json.dumps(spec.values(), sort_keys=True).encode())


def _key_file(key: bytes | None) -> FileInContainer:
    """The API's key, for the head's container; empty where there shall be none, so that an old one goes."""
    return FileInContainer(API_KEY_PATH, key or b"", PRIVATE_MODE)
