"""The only code that changes nodes: carries out a plan, stops and removes what carries the cluster's label."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path

from clusterctl.errors import ClusterctlError, UsageError
from clusterctl.facts.model import ClusterFacts
from clusterctl.hosts.engine import FileInContainer
from clusterctl.hosts.host import Host, Hosts
from clusterctl.inventory.model import Inventory
from clusterctl.planning.deployment import Deployment
from clusterctl.planning.paths import RAY_TOKEN_PATH, SPEC_PATH
from clusterctl.planning.plan import NodePlan, Plan

PRIVATE_MODE = 0o600
TOKEN_BYTES = 32


def apply(hosts: Hosts, deployment: Deployment, plan: Plan) -> Mapping[str, str]:
    """Carry out the plan on all nodes at once. Returns node name → ID of its new container; nodes kept are not in it.

    Each stage ends on every node before the next begins, so that no node runs what another could not create.
    Raises NodesError, which lists every node that failed.
    """
    todo = {node.node: node for node in plan.nodes if node.action != "keep"}
    token = ray_token(deployment.inventory)
    hosts.each(lambda host: _remove_all(host, todo[host.name].existing), todo).or_raise("removing old containers")
    created: dict[str, str] = {}

    def create(host: Host) -> None:
        # Recorded as it happens, so that what was created can be removed even when this stage fails elsewhere.
        created[host.name] = _create(host, deployment, todo[host.name], token)

    try:
        hosts.each(create, todo).or_raise("creating containers")
        hosts.each(lambda host: host.engine.start(created[host.name]), todo).or_raise("starting containers")
    except ClusterctlError as error:
        note_leftovers(error, remove(hosts, created))
        raise
    return created


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


def ray_token(inventory: Inventory) -> bytes:
    """The token for this start of the gang: the operator's file, or a new random one that lives only in containers.

    Raises UsageError for a file that others may read, or that is missing or empty.
    """
    path = inventory.ray.token_file
    if path is None:
        return secrets.token_hex(TOKEN_BYTES).encode()
    return read_secret(path, "ray.token_file")


def read_secret(path: Path, field: str) -> bytes:
    """Content of a file that only its owner may read. Raises UsageError with the fix."""
    try:
        mode = path.stat().st_mode & 0o777
        content = path.read_bytes().strip()
    except OSError as error:
        raise UsageError(f"{field}: cannot read {path}: {error.strerror}") from error
    if mode & 0o077:
        raise UsageError(f"{field}: {path} can be read by others (mode {mode:04o})", hint=f"chmod 600 {path}")
    if not content:
        raise UsageError(f"{field}: {path} is empty", hint=f"openssl rand -hex 32 > {path}")
    return content


def _remove_all(host: Host, containers: tuple[str, ...]) -> None:
    for container in containers:
        host.engine.remove(container)


def _create(host: Host, deployment: Deployment, node: NodePlan, token: bytes) -> str:
    spec = node.spec
    labels = spec.labels(deployment.inventory.cluster, deployment.places[host.name])
    container = host.engine.create(spec.name, {**spec.config, "labels": labels}, spec.host_config)
    try:
        host.engine.put_files(container, _files(node, token))
    except BaseException:
        host.engine.remove(container)
        raise
    return container


def _files(node: NodePlan, token: bytes) -> list[FileInContainer]:
    """Files go into the container's own layer: they live and die with it, and nothing is left on the node."""
    plain = [FileInContainer(path, text.encode()) for path, text in node.spec.files.items()]
    return [
        *plain,
        FileInContainer(SPEC_PATH, json.dumps(node.spec.values(), sort_keys=True).encode()),
        FileInContainer(RAY_TOKEN_PATH, token, PRIVATE_MODE),
    ]
