"""What a successful `up` ends with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clusterctl.actions.follow import Start
from clusterctl.actions.prepare import Prepared
from clusterctl.agent.paths import STATE_PATH, container_name
from clusterctl.facts.containers import json_in
from clusterctl.findings.finding import Finding
from clusterctl.hosts.host import Hosts
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


def summary_of(
    hosts: Hosts,
    prepared: Prepared,
    start: Start,
    completion: Completion,
    timings: Mapping[str, float],
    *,
    changed: bool,
) -> UpSummary:
    """What is there now, for the operator."""
    deployment, inventory = prepared.deployment, hosts.inventory
    said = json_in(hosts.head, container_name(inventory.cluster), STATE_PATH)
    state = said if isinstance(said, Mapping) else {}
    names = {str(place.address): name for name, place in deployment.places.items()}
    return UpSummary(
        cluster=inventory.cluster,
        changed=changed,
        endpoint=deployment.endpoint,
        model=inventory.served_name,
        tensor_parallel=deployment.layout.tensor_parallel,
        pipeline_parallel=deployment.layout.pipeline_parallel,
        stages=mode_of(inventory).stages({inventory.head_name: state}, names),
        kv_cache=kv_cache([*start.kept, *state.get("kept", ())]),
        completion=completion,
        new_api_key=prepared.keys.generated and prepared.keys.held is None,
        warnings=prepared.findings,
        timings_s={phase: round(seconds, 2) for phase, seconds in timings.items()},
    )
