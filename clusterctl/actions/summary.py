"""What a successful `up` ends with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clusterctl.actions.follow import Start
from clusterctl.actions.prepare import Prepared
from clusterctl.agent.paths import container_name
from clusterctl.facts.containers import agent_in
from clusterctl.findings.finding import Finding
from clusterctl.hosts.host import Hosts
from clusterctl.lock.history import last_starts
from clusterctl.lock.run import Run
from clusterctl.modes.all import mode_of
from clusterctl.modes.engines import EngineStatus
from clusterctl.modes.mode import Stage
from clusterctl.modes.place import Deployment
from clusterctl.signatures.start import KvCache, kv_cache
from clusterctl.status.server import Completion, EngineLoad, api_client, engine_loads, with_loads


@dataclass(frozen=True)
class UpSummary:
    """What a successful `up` ends with."""

    cluster: str
    changed: bool
    endpoint: str
    model: str
    tensor_parallel: int
    pipeline_parallel: int
    executor: str
    data_parallel: int
    expert_parallel: bool
    engines: tuple[EngineStatus, ...]
    stages: tuple[Stage, ...]
    kv_cache: KvCache
    completion: Completion
    new_api_key: bool
    """Whether the API's key was generated in this run: clients that have an older one must be given it."""
    warnings: tuple[Finding, ...]
    timings_s: Mapping[str, float]
    """Phase → seconds."""
    last_starts_s: tuple[float, ...]
    """Seconds that the starts before this one took in all, the latest last; at most three, as the head's history has
    them."""


def summary(run: Run, prepared: Prepared, start: Start, completion: Completion) -> UpSummary:
    """What is there now, for the operator."""
    deployment = prepared.deployment
    inventory, mode = deployment.inventory, mode_of(deployment.inventory)
    agent = agent_in(run.hosts.head, container_name(inventory.cluster))
    names = {str(place.address): name for name, place in deployment.places.items()}
    states = {inventory.head_name: agent}
    return UpSummary(
        cluster=inventory.cluster,
        changed=not prepared.plan.empty,
        endpoint=deployment.endpoint,
        model=inventory.served_name,
        tensor_parallel=deployment.layout.tensor_parallel,
        pipeline_parallel=deployment.layout.pipeline_parallel,
        executor=prepared.plan.executor,
        data_parallel=deployment.layout.data_parallel,
        expert_parallel=inventory.serve.expert_parallel,
        engines=with_loads(mode.engines(deployment), mode.held(states, names), _loads(run.hosts, deployment)),
        stages=mode.stages(states, names, deployment),
        kv_cache=kv_cache([*start.kept, *agent.kept]),
        completion=completion,
        new_api_key=prepared.keys.generated and prepared.keys.held is None,
        warnings=prepared.findings,
        timings_s={phase: round(seconds, 2) for phase, seconds in _timings(run, start).items()},
        last_starts_s=last_starts(run.hosts.head, inventory.cluster),
    )


def _loads(hosts: Hosts, deployment: Deployment) -> Mapping[int, EngineLoad]:
    """What the engines do now."""
    with api_client(hosts, deployment.inventory, deployment.endpoint) as client:
        return engine_loads(client)


def _timings(run: Run, start: Start) -> Mapping[str, float]:
    """This run's own phases, and those of the start that it followed."""
    own = run.laps.seconds
    followed = {phase: seconds + own.get(phase, 0.0) for phase, seconds in start.timings.items()}
    return {**own, **followed, "total": run.laps.total_s}
