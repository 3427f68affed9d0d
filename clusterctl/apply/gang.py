"""Carry out a plan: new containers on all nodes, stage by stage, or new files in those that go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clusterctl.agent.labels import LABEL_ROLE, ROLE_HEAD
from clusterctl.agent.paths import API_KEY_PATH
from clusterctl.apply.cache import make_cache
from clusterctl.apply.files import PRIVATE_MODE, key_file, spec_record
from clusterctl.apply.live import update
from clusterctl.apply.remove import remove_all
from clusterctl.apply.shutdown import Member, shut_down
from clusterctl.apply.undo import NewContainer, Undo, created
from clusterctl.facts.api_key import ApiKeys
from clusterctl.facts.records import ContainerFacts
from clusterctl.hosts.engine.engine import FileInContainer
from clusterctl.hosts.host import Host, Outcomes
from clusterctl.inventory.secret_files import token
from clusterctl.lock.run import Run
from clusterctl.modes.all import mode_of
from clusterctl.modes.place import Deployment
from clusterctl.planning.plan import Plan
from clusterctl.planning.steps import NEW_CONTAINER, Step


@dataclass(frozen=True)
class Change:
    """A plan, with what is not in it because it is secret, or a wish of this run."""

    deployment: Deployment
    plan: Plan
    keys: ApiKeys
    drain_s: float
    """Seconds for running requests of what is replaced."""


def apply(run: Run, change: Change, undo: list[Undo]) -> None:
    """Carry out the plan on all nodes at once. `undo` takes what was changed as it happens, so that the caller can take
    it back when a stage fails elsewhere.

    Raises NodesError, which lists every node that failed, and LockLostError before a stage.
    """
    if change.plan.new_gang:
        _replace_gang(run, change, undo)
    else:
        undo += update(run, change.plan, change.keys)


def _replace_gang(run: Run, change: Change, undo: list[Undo]) -> None:
    """Each stage ends on every node before the next begins, so that no node runs what another could not create. What is
    replaced is stopped in order, after `drain_s` seconds for running requests."""
    hosts, lock = run.hosts, run.lock
    todo = {step.node: step for step in change.plan.steps if isinstance(step, NEW_CONTAINER)}
    # Read first: a file that is no token must stop nothing.
    inventory = change.deployment.inventory
    secrets = mode_of(inventory).secrets(inventory)
    tokens = {path: token(secret.file, secret.field) for path, secret in secrets.items()}
    secret_files = [FileInContainer(path, content, PRIVATE_MODE) for path, content in tokens.items()]
    secret_files.append(key_file(change.keys.wanted))
    gang = {name: tuple(_member(container) for container in step.existing) for name, step in todo.items()}
    if any(member.running for members in gang.values() for member in members):
        failures = shut_down(run, gang, drain_s=change.drain_s)
        Outcomes[None]({}, failures).or_raise("stopping old containers")
    lock.ensure()
    old = {name: tuple(container.id for container in step.existing) for name, step in todo.items()}
    hosts.each(lambda host: remove_all(host, old[host.name]), todo).or_raise("removing old containers")
    run.progress.phase("starting containers")
    lock.ensure()

    def create(host: Host) -> None:
        undo.append(_create(host, change.deployment, todo[host.name], secret_files))

    hosts.each(create, todo).or_raise("creating containers")
    lock.ensure()
    new = created(undo)
    hosts.each(lambda host: host.engine.start(new[host.name]), todo).or_raise("starting containers")


def _member(container: ContainerFacts) -> Member:
    return Member(container.id, container.labels.get(LABEL_ROLE, ""), container.running)


def _create(host: Host, deployment: Deployment, step: Step, secret_files: Sequence[FileInContainer]) -> NewContainer:
    spec = step.spec
    place = deployment.places[host.name]
    labels = spec.labels(deployment.inventory.cluster, place)
    make_cache(host, deployment.inventory)
    container = host.engine.create(spec.name, {**spec.config, "labels": labels}, spec.host_config)
    try:
        # Files go into the container's own layer: they live and die with it, and nothing is left on the node.
        plain = [FileInContainer(path, text.encode()) for path, text in spec.files.items()]
        own = [file for file in secret_files if file.path != API_KEY_PATH or place.role == ROLE_HEAD]
        host.engine.put_files(container, [*plain, spec_record(spec), *own])
    except BaseException:
        host.engine.remove(container)
        raise
    return NewContainer(host.name, container)
