"""What a successful `up` ends with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clusterctl.actions.follow import Start
from clusterctl.actions.prepare import Prepared
from clusterctl.agent.paths import container_name
from clusterctl.facts.containers import agent_in
from clusterctl.findings.finding import Finding
from clusterctl.lock.run import Run
from clusterctl.modes.all import mode_of
from clusterctl.modes.mode import Stage
from clusterctl.signatures.start import KvCache, kv_cache
from clusterctl.status.server import Completion


@dataclass(frozen=True)
class UpSummary:
    """What a successful `up` ends with."""

    cluster: str
    changed: bool
    endpoint: str
    model: str
    tensor_parallel: int
    pipeline_parallel: int
    stages: tuple[Stage, ...]
    kv_cache: KvCache
    completion: Completion
    new_api_key: bool
    """Whether the API's key was generated in this run: clients that have an older one must be given it."""
    warnings: tuple[Finding, ...]
    timings_s: Mapping[str, float]
    """Phase → seconds."""


def summary(run: Run, prepared: Prepared, start: Start, completion: Completion) -> UpSummary:
    """What is there now, for the operator."""
    deployment, inventory = prepared.deployment, run.inventory
    agent = agent_in(run.hosts.head, container_name(inventory.cluster))
    names = {str(place.address): name for name, place in deployment.places.items()}
    return UpSummary(
        cluster=inventory.cluster,
        changed=not prepared.plan.empty,
        endpoint=deployment.endpoint,
        model=inventory.served_name,
        tensor_parallel=deployment.layout.tensor_parallel,
        pipeline_parallel=deployment.layout.pipeline_parallel,
        stages=mode_of(inventory).stages({inventory.head_name: agent}, names),
        kv_cache=kv_cache([*start.kept, *agent.kept]),
        completion=completion,
        new_api_key=prepared.keys.generated and prepared.keys.held is None,
        warnings=prepared.findings,
        timings_s={phase: round(seconds, 2) for phase, seconds in _timings(run, start).items()},
    )


def _timings(run: Run, start: Start) -> Mapping[str, float]:
    """This run's own phases, and those of the start that it followed."""
    own = run.laps.seconds
    followed = {phase: seconds + own.get(phase, 0.0) for phase, seconds in start.timings.items()}
    return {**own, **followed, "total": run.laps.total_s}
