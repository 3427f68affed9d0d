"""Containers of the cluster on a node, as they were found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from clusterctl.agent.labels import LABEL_CLUSTER, LABEL_GPUS, LABEL_ROLE, RANK_ROLES, ROLE_HEAD, ROLE_PROBE
from clusterctl.agent.paths import SPEC_PATH, STATE_PATH
from clusterctl.agent.state import AgentState, agent_state
from clusterctl.errors import ClusterctlError
from clusterctl.facts.fact import Fact, Unknown
from clusterctl.facts.records import ContainerFacts, EngineFacts, GpuProcess, OtherCluster
from clusterctl.hosts.engine.engine import Container, EngineError
from clusterctl.hosts.host import Host

STARTING_S = 10
"""Between the making and the start of a probe's container: 0.1 s in the lab, more on a busy machine."""


def has_probe(containers: tuple[ContainerFacts, ...]) -> bool:
    """Whether one of them is a probe of another run, and runs."""
    return any(is_probe(container) and container.running for container in containers)


def cluster_containers(host: Host, cluster: str) -> tuple[ContainerFacts, ...] | Unknown:
    """The cluster's containers on a node, running or not."""
    try:
        return tuple(container_facts(host, container) for container in host.engine.containers(cluster))
    except EngineError as error:
        return Unknown(error.message)


def other_clusters(host: Host, cluster: str) -> tuple[OtherCluster, ...]:
    """What runs of other clusters on a node; nothing where that cannot be asked: it only adds a name."""
    found = []
    try:
        for container in host.engine.containers(None):
            other = container.labels.get(LABEL_CLUSTER, "")
            if other != cluster and container.running:
                gpus = frozenset(filter(None, container.labels.get(LABEL_GPUS, "").split(",")))
                found.append(OtherCluster(other, container.name, frozenset(host.engine.pids(container.id)), gpus))
    except EngineError:
        pass
    return tuple(found)


def with_containers(host: Host, processes: Fact[tuple[GpuProcess, ...]]) -> Fact[tuple[GpuProcess, ...]]:
    """The processes with their containers' names instead of IDs, as far as the engine knows them."""
    if not isinstance(processes, tuple):
        return processes
    names: dict[str, str] = {}
    for identity in {process.container for process in processes if process.container is not None}:
        with suppress(EngineError):
            container = host.engine.container(identity)
            names[identity] = container.name if container is not None else identity
    return tuple(replace(each, container=names.get(each.container or "", each.container)) for each in processes)


def is_probe(container: ContainerFacts) -> bool:
    """Whether it only asks, and ends by itself: no part of the cluster."""
    return container.labels.get(LABEL_ROLE) == ROLE_PROBE


def holds_rank(container: ContainerFacts) -> bool:
    """Whether it is the node's part of the server, or was once: without a role it is of an older clusterctl."""
    return container.labels.get(LABEL_ROLE, ROLE_HEAD) in RANK_ROLES


def beside(containers: tuple[ContainerFacts, ...] | Unknown) -> tuple[ContainerFacts, ...]:
    """The cluster's containers of other roles, probes left out; none where they could not be listed."""
    known = () if isinstance(containers, Unknown) else containers
    return tuple(container for container in known if not holds_rank(container) and not is_probe(container))


def leftover_names(engine: Fact[EngineFacts], containers: tuple[ContainerFacts, ...] | Unknown) -> tuple[str, ...]:
    """IDs of containers that an earlier run left behind."""
    if not isinstance(engine, EngineFacts) or isinstance(containers, Unknown):
        return ()
    return tuple(container.id for container in containers if is_leftover(container, engine.time))


def is_leftover(container: ContainerFacts, now: str) -> bool:
    """Whether it is a probe that nobody waits for any more: the engine removes one that ends, not one whose
    clusterctl was killed before it started it. One made just now is another run's that is about to start it."""
    if not is_probe(container) or container.running:
        return False
    try:
        age = datetime.fromisoformat(now) - datetime.fromisoformat(container.created_at)
    except (ValueError, TypeError):  # an engine that does not say: whatever does not run is left
        return True
    return age.total_seconds() > STARTING_S


def container_facts(host: Host, container: Container) -> ContainerFacts:
    """Facts of one container, with what it was started with and what its agent says."""
    return ContainerFacts(
        id=container.id,
        name=container.name,
        labels=container.labels,
        status=container.status,
        exit_code=container.exit_code,
        started_at=container.started_at,
        restart_policy=container.restart_policy,
        restart_count=container.restart_count,
        spec=json_in(host, container.id, SPEC_PATH),
        state=json_in(host, container.id, STATE_PATH),
        created_at=container.created_at,
    )


def agent_in(host: Host, container: str) -> AgentState:
    """The latest report of the agent in a container; one that knows nothing when it cannot be read."""
    return agent_state(json_in(host, container, STATE_PATH))


def json_in(host: Host, container: str, path: str) -> Fact[Mapping[str, Any]]:
    """A JSON file in a container, running or not; None when the file or the container is absent."""
    try:
        content = host.engine.read_file(container, path)
        value = None if content is None else json.loads(content)
    except (ClusterctlError, ValueError) as error:
        return Unknown(f"{path}: {error}")
    return value if value is None or isinstance(value, dict) else Unknown(f"{path} holds no JSON object")
