"""`up`, told as the pipeline of docs/explanation/architecture.md: check, plan, apply, wait for a real completion."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from clusterctl import vllm_log
from clusterctl.apply import apply, note_leftovers, remove, remove_probes
from clusterctl.errors import ClusterctlError
from clusterctl.facts.deep import with_deep
from clusterctl.facts.gather import gather, json_in
from clusterctl.facts.model import ClusterFacts, ContainerFacts, Unknown
from clusterctl.findings.finding import ChecksFailedError, Finding, has_errors
from clusterctl.findings.rules import check
from clusterctl.follow import Start, StartFailedError, follow
from clusterctl.hosts.host import Host, Hosts
from clusterctl.planning.deployment import Deployment, resolve
from clusterctl.planning.paths import STATE_PATH, container_name
from clusterctl.planning.plan import Plan, make_plan
from clusterctl.server import Completion, api_client, complete
from clusterctl.stages import Stage, stages
from clusterctl.ui.progress import SILENT, Progress


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
    kv_cache: vllm_log.KvCache
    completion: Completion
    warnings: tuple[Finding, ...]
    timings_s: Mapping[str, float]
    """Phase → seconds."""


@dataclass(frozen=True)
class Prepared:
    """What `plan` shows and `up` carries out."""

    facts: ClusterFacts
    findings: tuple[Finding, ...]
    deployment: Deployment
    plan: Plan


def prepare(hosts: Hosts, progress: Progress = SILENT) -> Prepared:
    """Read, check and plan; changes nothing. Raises ChecksFailedError when starting would surely fail."""
    facts = gather(hosts, progress)
    findings = passed(check(hosts.inventory, facts))
    deployment = resolve(hosts.inventory, facts)
    return Prepared(facts, findings, deployment, make_plan(deployment, facts))


def examine(hosts: Hosts, prepared: Prepared) -> Prepared:
    """Ask also what only running something on the nodes shows (the image's report, the network between the nodes), and
    check again with it. Raises ChecksFailedError."""
    facts = with_deep(hosts, prepared.facts)
    return replace(prepared, facts=facts, findings=passed(check(hosts.inventory, facts)))


def passed(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """The findings, if none of them says that starting would surely fail. Raises ChecksFailedError."""
    if has_errors(findings):
        raise ChecksFailedError(findings)
    return findings


def up(hosts: Hosts, progress: Progress, *, keep: bool, full_check: bool) -> UpSummary:
    """Make the cluster what the inventory declares and prove it with a completion.

    With `full_check`, what will be started is first tried in small: seconds, before minutes of loading. With `keep`,
    what was started stays when the start fails; otherwise it is removed after its logs were saved.
    Raises ChecksFailedError, NodesError, StartFailedError.
    """
    began = time.monotonic()
    progress.phase("checking the nodes")
    prepared = prepare(hosts, progress)
    if full_check and not prepared.plan.empty:
        progress.detail("running the image on every node, and trying the network between them")
        prepared = examine(hosts, prepared)
    remove_probes(hosts, prepared.facts)
    checks_s = time.monotonic() - began
    progress.phase("starting containers" if not prepared.plan.empty else "looking at what runs")
    applying = time.monotonic()
    started = apply(hosts, prepared.deployment, prepared.plan)
    containers_s = time.monotonic() - applying
    try:
        start = _until_serving(hosts, prepared, started, progress)
        completion = _first_completion(hosts, prepared.deployment, start)
    except ClusterctlError as error:
        if started and not keep:
            _give_up(hosts, started, error)
        raise
    waited = {**start.timings, "containers": containers_s + start.timings.get("containers", 0.0)}
    timings = {"checks": checks_s, **waited, "total": time.monotonic() - began}
    return _summary(hosts, prepared, start, completion, timings)


def _until_serving(hosts: Hosts, prepared: Prepared, started: Mapping[str, str], progress: Progress) -> Start:
    running = {
        name: container.id
        for name, facts in prepared.facts.nodes.items()
        if not isinstance(facts.containers, Unknown)
        for container in facts.containers
    }
    head = hosts.inventory.head_name
    if not started and _serves(prepared.facts, head):
        return Start(phase="serving")
    return follow(hosts, {**running, **started}, head, hosts.inventory.timeouts, progress)


def _serves(facts: ClusterFacts, head: str) -> bool:
    container = head_container(facts, head)
    state = container.state if container is not None else None
    return isinstance(state, Mapping) and state.get("phase") == "serving"


def head_container(facts: ClusterFacts, head: str) -> ContainerFacts | None:
    """The head's container, if there is exactly one."""
    node = facts.nodes.get(head)
    if node is None or isinstance(node.containers, Unknown) or len(node.containers) != 1:
        return None
    return node.containers[0]


def _first_completion(hosts: Hosts, deployment: Deployment, start: Start) -> Completion:
    """A completion that came back to the operator's side, not only to the agent's."""
    with api_client(hosts, deployment.endpoint) as client:
        answer = complete(client, deployment.inventory.served_name)
    if isinstance(answer, Unknown):
        head = hosts.head.name
        what = f"no completion came back through SSH to the head: {answer.reason}"
        raise StartFailedError(head, what, phase=start.phase, lines=list(start.tails.get(head, ())))
    return answer


def _give_up(hosts: Hosts, started: Mapping[str, str], error: ClusterctlError) -> None:
    """Save what the containers said, then remove what this run started; the error says so."""
    saved = save_logs(hosts, started)
    left = remove(hosts, {name: container for name, container in started.items() if name in hosts.connected})
    said = saved if left else f"{saved}; what this run started was removed (--keep leaves it)"
    error.hint = f"{error.hint}\n     {said}" if error.hint else said
    note_leftovers(error, left)


def save_logs(hosts: Hosts, containers: Mapping[str, str]) -> str:
    """Write every container's log to a new directory that only its owner may read; returns where they are, or why
    they could not be saved (the cleaning up goes on either way)."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = Path(f"clusterctl-{hosts.inventory.cluster}-{stamp}")

    def save(host: Host) -> None:
        with (folder / f"{host.name}.log").open("wb") as file:
            for chunk in host.engine.logs(containers[host.name], follow=False):
                file.write(chunk.data)

    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        missed = hosts.each(save, [name for name in containers if name in hosts.connected]).errors
    except OSError as error:
        return f"the nodes' logs could not be saved in {Path.cwd()}: {error.strerror}"
    return f"all nodes' logs: {folder}/" + (f" (not of {', '.join(missed)})" if missed else "")


def _summary(
    hosts: Hosts, prepared: Prepared, start: Start, completion: Completion, timings: Mapping[str, float]
) -> UpSummary:
    deployment, inventory = prepared.deployment, hosts.inventory
    said = json_in(hosts.head, container_name(inventory.cluster), STATE_PATH)
    state = said if isinstance(said, Mapping) else {}
    names = {str(place.address): name for name, place in deployment.places.items()}
    return UpSummary(
        cluster=inventory.cluster,
        changed=not prepared.plan.empty,
        endpoint=deployment.endpoint,
        model=inventory.served_name,
        tensor_parallel=deployment.layout.tensor_parallel,
        pipeline_parallel=deployment.layout.pipeline_parallel,
        stages=stages(state.get("workers") or {}, names),
        kv_cache=vllm_log.kv_cache([*start.kept, *state.get("kept", ())]),
        completion=completion,
        warnings=prepared.findings,
        timings_s={phase: round(seconds, 2) for phase, seconds in timings.items()},
    )
