"""The only code that changes nodes: carries out a plan, stops and removes what carries the cluster's label."""

from __future__ import annotations

from collections.abc import Sequence

from clusterctl.agent.labels import LABEL_ROLE
from clusterctl.agent.paths import API_KEY_PATH, SERVER_PATH
from clusterctl.apply.files import PRIVATE_MODE, key_file, spec_record
from clusterctl.apply.live import update
from clusterctl.apply.remove import remove_all
from clusterctl.apply.shutdown import Member, shut_down
from clusterctl.facts.api_key import ApiKeys
from clusterctl.facts.records import ContainerFacts
from clusterctl.hosts.engine import FileInContainer
from clusterctl.hosts.host import Host, Hosts, Outcomes
from clusterctl.inventory.secret_files import token
from clusterctl.lock.cluster import ClusterLock
from clusterctl.modes.all import mode_of
from clusterctl.modes.place import Deployment
from clusterctl.planning.plan import NodePlan, Plan
from clusterctl.progress import Progress


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
    secrets = mode_of(deployment.inventory).secrets(deployment.inventory)
    tokens = {path: token(secret.file, secret.field) for path, secret in secrets.items()}
    secret_files = [FileInContainer(path, content, PRIVATE_MODE) for path, content in tokens.items()]
    secret_files.append(key_file(keys.wanted))
    gang = {name: tuple(_member(container) for container in node.existing) for name, node in todo.items()}
    if any(member.running for members in gang.values() for member in members):
        failures = shut_down(hosts, gang, progress, by=by, drain_s=drain_s)
        Outcomes[None]({}, failures).or_raise("stopping old containers")
    lock.ensure()
    old = {name: tuple(container.id for container in node.existing) for name, node in todo.items()}
    hosts.each(lambda host: remove_all(host, old[host.name]), todo).or_raise("removing old containers")
    progress.phase("starting containers")
    lock.ensure()

    def create(host: Host) -> None:
        created[host.name] = _create(host, deployment, todo[host.name], secret_files)

    hosts.each(create, todo).or_raise("creating containers")
    lock.ensure()
    hosts.each(lambda host: host.engine.start(created[host.name]), todo).or_raise("starting containers")


def _member(container: ContainerFacts) -> Member:
    return Member(container.id, container.labels.get(LABEL_ROLE, ""), container.running)


def _create(host: Host, deployment: Deployment, node: NodePlan, secret_files: Sequence[FileInContainer]) -> str:
    spec = node.spec
    labels = spec.labels(deployment.inventory.cluster, deployment.places[host.name])
    container = host.engine.create(spec.name, {**spec.config, "labels": labels}, spec.host_config)
    try:
        # Files go into the container's own layer: they live and die with it, and nothing is left on the node.
        plain = [FileInContainer(path, text.encode()) for path, text in spec.files.items()]
        own = [file for file in secret_files if file.path != API_KEY_PATH or spec.files.get(SERVER_PATH)]
        host.engine.put_files(container, [*plain, spec_record(spec), *own])
    except BaseException:
        host.engine.remove(container)
        raise
    return container
