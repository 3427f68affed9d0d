"""`status`: what runs, whether it is healthy, and whether it is what the inventory declares."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from clusterctl.agent.paths import container_name
from clusterctl.agent.state import AgentState
from clusterctl.deployment.address import private_address
from clusterctl.deployment.executor import choose
from clusterctl.deployment.gpus import usable_gpus
from clusterctl.deployment.resolve import resolve
from clusterctl.errors import ExitCode
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.gather import gather
from clusterctl.facts.records import CacheVolume, ContainerFacts
from clusterctl.findings.finding import Finding, Severity, has_errors
from clusterctl.findings.rules import check
from clusterctl.hosts.host import Hosts
from clusterctl.inventory.endpoint import endpoint_of
from clusterctl.inventory.model import Inventory
from clusterctl.modes.all import STEPS, mode_of
from clusterctl.modes.engines import EngineStatus, engine_places
from clusterctl.modes.mode import Stage
from clusterctl.modes.place import Deployment
from clusterctl.planning.cache import cache_source
from clusterctl.planning.plan import make_plan
from clusterctl.signatures.start import KvCache, kv_cache
from clusterctl.status.server import (
    Completion,
    EngineLoad,
    Metrics,
    api_client,
    complete,
    engine_loads,
    health,
    metrics,
    with_loads,
)

RATE_WINDOW_S = 1.0
"""Seconds between the two looks at the token counter that `tokens_per_s` is taken from."""


RECOVERING = tuple(dict.fromkeys((*STEPS, "gate", "loading", "restarting", "draining")))
"""Phases of a head's agent from which it comes to serve by itself."""


HOLDING = ("loading", "running", "serving", "draining")
"""Phases of an agent in which its part of the server holds accelerators."""


State = Literal["healthy", "starting", "recovering", "degraded", "down", "unknown"]


@dataclass(frozen=True)
class GpuStatus:
    """One accelerator's memory, in MiB; None where nvidia-smi does not know it."""

    index: int
    name: str
    memory_used_mib: int | None
    memory_total_mib: int | None


@dataclass(frozen=True)
class ContainerStatus:
    """One container of the cluster and what its agent says."""

    name: str
    status: str
    exit_code: int
    phase: str | None
    reason: str | None
    restart_policy: str
    """`always` once the cluster has served and `supervise` is on; else `no`."""
    restarts_total: int
    """How often something in it was started again since it was created, asked for or not."""
    restarts: tuple[Mapping[str, Any], ...]
    """The latest of them: `t` (Unix time in seconds), `scope`, `reason`, `detail`."""


@dataclass(frozen=True)
class CacheStatus:
    """Compiled code that a node keeps for the next start."""

    volume: str
    """The engine's volume, or the operator's own directory."""
    directory: str | None
    """Where it lies on the node, as the engine says; None where it does not."""
    bytes: int | None
    """On the disk; measured each minute by the agent. None while that does not run, or cannot use it."""
    max_bytes: int
    problem: str | None
    """Why it cannot be used."""


@dataclass(frozen=True)
class NodeStatus:
    """One node as `status` sees it."""

    name: str
    role: str
    address: str | None
    reachable: bool
    reason: str | None
    containers: tuple[ContainerStatus, ...]
    gpus: int | None
    """Accelerators in use by the cluster: Ray's own count when it runs, without Ray those that the node's part of the
    server was started with; None when that is not known."""
    gpu_memory: tuple[GpuStatus, ...]
    in_ray: bool | None
    """Whether Ray counts the node as alive; None when Ray could not be asked, and without Ray."""
    stages: tuple[int, ...]
    """Pipeline stages that this node holds."""
    cache: CacheStatus | None = None
    """Compiled code that the node keeps; None: none."""


@dataclass(frozen=True)
class ServerAnswers:
    """What the server itself answered."""

    health: int | Unknown
    completion: Completion | Unknown
    metrics: Metrics | Unknown
    tokens_per_s: float | None


@dataclass(frozen=True)
class Asked:
    """What the server was asked: its answers, and what each engine does, by rank."""

    answers: ServerAnswers | None
    """None: no server could be expected to answer."""
    loads: Mapping[int, EngineLoad] = field(default_factory=dict)


@dataclass(frozen=True)
class ClusterStatus:
    """The whole answer of `status`."""

    cluster: str
    state: State
    ready: bool
    waiting_for: str | None
    """What the start, or the recovery, waits for."""
    endpoint: str | None
    model: str
    tensor_parallel: int | None
    pipeline_parallel: int | None
    executor: str | None
    """ray or mp; None where nothing runs that tells."""
    data_parallel: int
    expert_parallel: bool
    engines: tuple[EngineStatus, ...]
    api_servers: int | None
    """Processes on the head that take requests; None where it is vLLM's choice (0.32: as many as engines)."""
    coordinator: str | None
    """The node where vLLM counts each engine's requests, to balance by; None with one engine, which needs none."""
    nodes: tuple[NodeStatus, ...]
    server: ServerAnswers | None
    kv_cache: KvCache
    drift: tuple[str, ...]
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """For machines; unknown values are objects with a `reason`."""
        return asdict(self)


_EXIT_CODES: Mapping[State, ExitCode] = {
    "healthy": ExitCode.OK,
    "starting": ExitCode.DEGRADED,
    "recovering": ExitCode.DEGRADED,
    "degraded": ExitCode.DEGRADED,
    "down": ExitCode.DOWN,
    "unknown": ExitCode.UNKNOWN,
}


def exit_code_of(status: ClusterStatus) -> ExitCode:
    """0 healthy and as declared; 3 starting, recovering, degraded or drifted; 4 down; 5 a node could not be asked.

    With a finding of severity error no plan can be made, so nobody knows whether it is as declared.
    """
    if status.state == "healthy" and (status.drift or has_errors(status.findings)):
        return ExitCode.DEGRADED
    return _EXIT_CODES[status.state]


def read_status(hosts: Hosts, inventory: Inventory) -> ClusterStatus:
    """Ask the nodes and the server. Changes nothing."""
    return status_of(hosts, inventory, gather(hosts, inventory))


def status_of(hosts: Hosts, inventory: Inventory, facts: ClusterFacts) -> ClusterStatus:
    """The same, of nodes that were read already. Changes nothing."""
    endpoint = endpoint_from(inventory, facts)
    asked = _ask_server(hosts, inventory, facts, endpoint)
    return cluster_status(inventory, facts, endpoint, asked.answers, asked.loads)


def endpoint_from(inventory: Inventory, facts: ClusterFacts) -> str | None:
    """Base URL of the API, when the head's private address is known."""
    head = facts.nodes.get(inventory.head_name)
    found = private_address(inventory, inventory.head_name, head) if head is not None else None
    address = found.address if found is not None else inventory.head_node.address
    return endpoint_of(inventory, address) if address is not None else None


def _ask_server(hosts: Hosts, inventory: Inventory, facts: ClusterFacts, endpoint: str | None) -> Asked:
    head = facts.nodes.get(inventory.head_name)
    if endpoint is None or head is None or not any(container.running for container in containers_of(head)):
        return Asked(None)
    with api_client(hosts, inventory, endpoint) as client:
        before, began = metrics(client), time.monotonic()
        answered, completion = health(client), complete(client, inventory.served_name)
        if isinstance(before, Unknown):
            return Asked(ServerAnswers(answered, completion, before, None))
        time.sleep(max(0.0, RATE_WINDOW_S - (time.monotonic() - began)))
        after, window_s = metrics(client), time.monotonic() - began
        loads = engine_loads(client) if isinstance(completion, Completion) else {}
    own = completion.tokens if isinstance(completion, Completion) else 0
    return Asked(ServerAnswers(answered, completion, after, _rate(before, after, window_s, own)), loads)


def _rate(before: Metrics, after: Metrics | Unknown, window_s: float, own_tokens: int) -> float | None:
    if isinstance(after, Unknown):
        return None
    made = after.generation_tokens_total - before.generation_tokens_total - own_tokens
    return round(max(0.0, made) / window_s, 1)


def containers_of(node: NodeFacts) -> tuple[ContainerFacts, ...]:
    """The cluster's containers on a node; empty when the engine could not be asked."""
    return () if isinstance(node.containers, Unknown) else node.containers


def cluster_status(
    inventory: Inventory,
    facts: ClusterFacts,
    endpoint: str | None,
    server: ServerAnswers | None,
    loads: Mapping[int, EngineLoad] = MappingProxyType({}),
) -> ClusterStatus:
    """From what is asked for and what was seen to the answer; `loads`: what each engine does, by rank. Pure."""
    choice = choose(inventory, facts)
    inventory = choice.inventory
    findings = tuple(f for f in check(inventory, facts) if f.severity is Severity.ERROR)
    deployment = None if has_errors(findings) else resolve(inventory, facts)
    plan = make_plan(deployment, facts) if deployment is not None else None
    running = [c for node in facts.nodes.values() for c in containers_of(node)]
    drift = () if plan is None or plan.empty or not running else tuple(plan.step_lines())
    head_state = _head_state(inventory, facts)
    state = _state(inventory, facts, server)
    return ClusterStatus(
        cluster=inventory.cluster,
        state=state,
        waiting_for=head_state.waiting_for,
        ready=server is not None and isinstance(server.completion, Completion),
        endpoint=endpoint,
        model=inventory.served_name,
        tensor_parallel=deployment.layout.tensor_parallel if deployment is not None else None,
        pipeline_parallel=deployment.layout.pipeline_parallel if deployment is not None else None,
        executor=choice.executor,
        data_parallel=inventory.serve.data_parallel,
        expert_parallel=inventory.serve.expert_parallel,
        engines=with_loads(
            engine_places(inventory),
            mode_of(inventory).held({inventory.head_name: head_state}, _addresses(inventory, facts)),
            loads,
        ),
        api_servers=None if inventory.serve.api_servers == "auto" else inventory.serve.api_servers,
        coordinator=inventory.head_name if inventory.serve.data_parallel > 1 else None,
        nodes=_node_statuses(inventory, facts, deployment, head_state),
        server=server,
        kv_cache=kv_cache(head_state.kept),
        drift=drift,
        findings=findings,
    )


def _head_state(inventory: Inventory, facts: ClusterFacts) -> AgentState:
    """The report of the head's agent; one that knows nothing when it does not run."""
    head = facts.nodes.get(inventory.head_name)
    for container in containers_of(head) if head is not None else ():
        if container.running and isinstance(container.state, Mapping):
            return container.agent
    return AgentState()


def _head_restarts(inventory: Inventory, facts: ClusterFacts) -> bool:
    """Whether the engine is about to start the head's container again; its agent cannot be read then."""
    head = facts.nodes.get(inventory.head_name)
    return head is not None and any(container.status == "restarting" for container in containers_of(head))


def _state(inventory: Inventory, facts: ClusterFacts, server: ServerAnswers | None) -> State:
    nodes = facts.nodes.values()
    if facts.unreachable or any(isinstance(node.containers, Unknown) for node in nodes):
        return "unknown"
    if not any(node.containers for node in nodes):
        return "down"
    all_run = all(
        [c.name for c in containers_of(node) if c.running] == [container_name(inventory.cluster)] for node in nodes
    )
    if all_run and server is not None and isinstance(server.completion, Completion):
        return "healthy"
    phase = "restarting" if _head_restarts(inventory, facts) else _head_state(inventory, facts).phase
    every = [container for node in nodes for container in containers_of(node)]
    gave_up = any(container.ended or container.agent.phase == "failed" for container in every)
    if phase not in RECOVERING or gave_up or _head_state(inventory, facts).ending:
        return "degraded"
    if all(container.restart_policy != "no" for container in every):
        return "recovering"
    return "starting" if all_run else "degraded"


def _node_statuses(
    inventory: Inventory, facts: ClusterFacts, deployment: Deployment | None, head_state: AgentState
) -> tuple[NodeStatus, ...]:
    mode = mode_of(inventory)
    gang = _Gang(
        members=mode.members(head_state),
        counts=mode.counts_members,
        stages=mode.stages({inventory.head_name: head_state}, _addresses(inventory, facts), deployment),
        gpus_per_node=deployment.layout.gpus_per_node if deployment is not None else None,
    )
    return tuple(_node_status(inventory, facts, node.name, gang) for node in inventory.nodes)


def _addresses(inventory: Inventory, facts: ClusterFacts) -> Mapping[str, str]:
    """Private address -> node, of those that were read."""
    found = {name: private_address(inventory, name, node) for name, node in facts.nodes.items()}
    return {str(place.address): name for name, place in found.items() if place is not None}


@dataclass(frozen=True)
class _Gang:
    """What is known of the nodes together."""

    members: Mapping[str, float] | None
    """Address → accelerators, as the head's agent counts them; None: it does not."""
    counts: bool
    """Whether the mode has anybody who counts."""
    stages: tuple[Stage, ...]
    gpus_per_node: int | None
    """As planned; None where findings leave it open."""

    def gpus(self, node: NodeFacts, address: str | None) -> int | None:
        """Accelerators in use by the cluster on a node."""
        if self.counts:
            return int(self.members[address]) if self.members and address and address in self.members else None
        busy = any(container.running and container.agent.phase in HOLDING for container in containers_of(node))
        return self.gpus_per_node if busy else None


def _node_status(inventory: Inventory, facts: ClusterFacts, name: str, gang: _Gang) -> NodeStatus:
    role = "head" if name == inventory.head_name else "worker"
    declared = next(node.address for node in inventory.nodes if node.name == name)
    if name in facts.unreachable:
        address = str(declared) if declared is not None else None
        return NodeStatus(name, role, address, False, facts.unreachable[name].reason, (), None, (), None, ())
    node = facts.nodes[name]
    found = private_address(inventory, name, node)
    address = str(found.address) if found is not None else None
    counted = address in gang.members if gang.members is not None else None
    return NodeStatus(
        name=name,
        role=role,
        address=address,
        reachable=True,
        reason=node.containers.reason if isinstance(node.containers, Unknown) else None,
        containers=tuple(_container_status(container) for container in containers_of(node)),
        gpus=gang.gpus(node, address),
        gpu_memory=tuple(
            GpuStatus(gpu.index, gpu.name, gpu.memory_used_mib, gpu.memory_total_mib)
            for gpu in usable_gpus(inventory, name, node)
        ),
        in_ray=counted,
        stages=tuple(stage.pipeline_rank for stage in gang.stages if name in stage.nodes),
        cache=_cache_status(inventory, node),
    )


def _cache_status(inventory: Inventory, node: NodeFacts) -> CacheStatus | None:
    found = next((c.agent.cache for c in containers_of(node) if c.running and c.agent.cache is not None), None)
    volume = node.cache if isinstance(node.cache, CacheVolume) else None
    if found is None and volume is None:
        return None
    size, problem = (found.bytes, found.problem) if found is not None else (None, None)
    most, directory = inventory.container.cache_max_bytes, volume.directory if volume is not None else None
    return CacheStatus(cache_source(inventory), directory, size, most, problem)


def _container_status(container: ContainerFacts) -> ContainerStatus:
    agent = container.agent
    return ContainerStatus(
        name=container.name,
        status=container.status,
        exit_code=container.exit_code,
        phase=agent.phase,
        reason=agent.detail,
        restart_policy=container.restart_policy,
        restarts_total=agent.restarts_total,
        restarts=tuple(each.record for each in agent.restarts),
    )
