"""`up`, told as the pipeline of docs/explanation/architecture.md: check, plan, apply, wait for a real completion."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from clusterctl import vllm_log
from clusterctl.apply import adopt, apply, note_leftovers, put_back, remove, remove_probes
from clusterctl.credentials import ApiKeys, api_keys
from clusterctl.errors import ClusterctlError
from clusterctl.evidence import collect_after_failure
from clusterctl.facts.deep import with_deep
from clusterctl.facts.gather import gather, json_in
from clusterctl.facts.model import ClusterFacts, ContainerFacts, Unknown
from clusterctl.findings.finding import ChecksFailedError, Finding, has_errors
from clusterctl.findings.rules import check
from clusterctl.follow import Followed, Start, StartFailedError, follow
from clusterctl.hosts.host import Hosts
from clusterctl.lock import ClusterLock
from clusterctl.planning.container import restart_policy
from clusterctl.planning.deployment import Deployment, resolve
from clusterctl.planning.paths import STATE_PATH, container_name
from clusterctl.planning.plan import Plan, make_plan
from clusterctl.server import Completion, api_client, complete
from clusterctl.stages import Stage, stages
from clusterctl.ui.progress import SILENT, Progress

FIRST_COMPLETION_S = 300
"""For the completion that `up` asks for: as long as the agent waits for its own first one (agent.py)."""


class LateCompletionError(ClusterctlError):
    """The cluster serves others, and the completion that `up` asked for did not come in time. Nothing was undone."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="nothing was removed; clusterctl up asks again, and turns supervision on")


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
    new_api_key: bool
    """Whether the API's key was generated in this run: clients that have an older one must be given it."""
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
    keys: ApiKeys


def prepare(hosts: Hosts, progress: Progress = SILENT, *, anew: bool = False) -> Prepared:
    """Read, check and plan; changes nothing. Raises ChecksFailedError when starting would surely fail, and UsageError
    for a file that cannot be a key.

    With `anew` the plan replaces what runs, whether it differs or not.
    """
    facts = gather(hosts, progress)
    findings = passed(check(hosts.inventory, facts))
    deployment = resolve(hosts.inventory, facts)
    keys = api_keys(hosts.inventory, hosts.head, container_name(hosts.inventory.cluster))
    plan = make_plan(deployment, facts, anew=anew, other_key=keys.changes)
    return Prepared(facts, findings, deployment, plan, keys)


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


@dataclass(frozen=True)
class UpOptions:
    """How an operator wants it done."""

    by: str
    """Who asks, for the record: user@host."""
    keep: bool = False
    """Leave what was started when the start fails; otherwise it is removed after evidence was collected."""
    full_check: bool = True
    """Try in small what will be started: seconds, before minutes of loading."""
    anew: bool = False
    """Replace what runs, whether it differs from the inventory or not."""
    drain_s: float | None = None
    """For running requests of what is replaced; None: timeouts.drain_s."""


def up(hosts: Hosts, progress: Progress, lock: ClusterLock, asked: UpOptions) -> UpSummary:
    """Make the cluster what the inventory declares, prove it with a completion, and have it heal from then on.

    What this run started is removed again when it fails, and a server that was only given other options gets its old
    ones back: what ran before is not lost. Raises ChecksFailedError, LockLostError, NodesError, StartFailedError.
    """
    began = time.monotonic()
    progress.phase("checking the nodes")
    prepared = prepare(hosts, progress, anew=asked.anew)
    if asked.full_check and prepared.plan.new_gang:
        progress.detail("running the image on every node, and trying the network between them")
        prepared = examine(hosts, prepared)
    lock.ensure()
    remove_probes(hosts, prepared.facts)
    checks_s = time.monotonic() - began
    applying = time.monotonic()
    drain_s = hosts.inventory.timeouts.drain_s if asked.drain_s is None else asked.drain_s
    for change in prepared.plan.history():
        lock.note(change)
    started: dict[str, str] = {}
    applied = False
    try:
        apply(
            hosts,
            prepared.deployment,
            prepared.plan,
            progress,
            lock,
            keys=prepared.keys,
            by=asked.by,
            drain_s=drain_s,
            created=started,
        )
        applied = True
        containers_s = time.monotonic() - applying
        start = wait_until_serving(hosts, prepared, started, progress, lock)
        completion = first_completion(hosts, prepared.deployment, start, progress)
    except LateCompletionError:
        raise  # it serves: nothing is to be undone
    except ClusterctlError as error:
        if started:
            _give_up(hosts, prepared, started, error, lock, keep=asked.keep)
        elif applied and restarts_server(prepared.plan):
            _put_back(hosts, prepared, error, progress, lock, by=asked.by)
        raise
    lock.ensure()
    _adopt(hosts, prepared, started)
    waited = {**start.timings, "containers": containers_s + start.timings.get("containers", 0.0)}
    timings = {"checks": checks_s, **waited, "total": time.monotonic() - began}
    return summary_of(hosts, prepared, start, completion, timings, changed=not prepared.plan.empty)


def wait_until_serving(
    hosts: Hosts, prepared: Prepared, started: Mapping[str, str], progress: Progress, lock: ClusterLock
) -> Start:
    """Follow what starts, or what is on its way: the start of another `up`, or a cluster that heals.

    Raises StartFailedError.
    """
    head, limits = hosts.inventory.head_name, hosts.inventory.timeouts
    if started:
        new = {name: Followed(container) for name, container in started.items()}
        return follow(hosts, new, head, limits, progress, lost=lock.lost)
    container, restarts = head_container(prepared.facts, head), restarts_server(prepared.plan)
    phase, number = _agent_says(container)
    if phase == "serving" and not restarts:
        return Start(phase="serving")
    progress.phase("waiting for the new server" if restarts else "waiting for what is on its way")
    heals = container is not None and container.restart_policy != "no"
    after = number if restarts else number - 1
    running = from_now_on(prepared.facts)
    patient = heals and not restarts
    return follow(hosts, running, head, limits, progress, lost=lock.lost, after=after, patient=patient)


def from_now_on(facts: ClusterFacts) -> Mapping[str, Followed]:
    """Node name → its container, to be followed from the phase on in which it is."""
    return {
        name: Followed(container.id, float(container.agent.get("since", 0)))
        for name, node in facts.nodes.items()
        for container in (() if isinstance(node.containers, Unknown) else node.containers)
    }


def restarts_server(plan: Plan) -> bool:
    """Whether the plan is to give the server other options and leave the gang as it is."""
    return any(node.action == "restart-server" for node in plan.nodes)


def _agent_says(container: ContainerFacts | None) -> tuple[str | None, int]:
    """The agent's phase, and the number of its latest server."""
    state = container.agent if container is not None else {}
    return state.get("phase"), int(state.get("server", 0))


def head_container(facts: ClusterFacts, head: str) -> ContainerFacts | None:
    """The head's container, if there is exactly one."""
    node = facts.nodes.get(head)
    if node is None or isinstance(node.containers, Unknown) or len(node.containers) != 1:
        return None
    return node.containers[0]


def _adopt(hosts: Hosts, prepared: Prepared, started: Mapping[str, str]) -> None:
    """Turn supervision on, or off, where it is not yet as declared."""
    policy = restart_policy(hosts.inventory)
    existing = {
        node.node: node.existing[0].id
        for node in prepared.plan.nodes
        if not node.new_container and node.existing[0].restart_policy != policy
    }
    try:
        adopt(hosts, {**existing, **started}, policy)
    except ClusterctlError as error:
        error.hint = "the cluster serves, but does not heal everywhere yet; clusterctl up"
        raise


def _put_back(
    hosts: Hosts,
    prepared: Prepared,
    error: ClusterctlError,
    progress: Progress,
    lock: ClusterLock,
    *,
    by: str,
) -> None:
    """Give the server its old options again, and say in the error whether it serves with them, and where the evidence
    is of why it did not with the new."""
    saved = collect_after_failure(hosts, error, None)
    progress.phase("giving the server its old options back")
    try:
        lock.ensure()
        name = container_name(hosts.inventory.cluster)
        said = json_in(hosts.head, name, STATE_PATH)
        state = said if isinstance(said, Mapping) else {}
        put_back(hosts, prepared.plan, prepared.keys.held, by=by)
        found = {hosts.head.name: Followed(name, float(state.get("since", 0)))}
        number = int(state.get("server", 0))
        limits = hosts.inventory.timeouts
        follow(hosts, found, hosts.head.name, limits, progress, lost=lock.lost, after=number, patient=True)
        outcome = "the server has its old options again, and serves"
    except ClusterctlError as second:
        why = second.message.splitlines()[0]
        outcome = f"the server's old options could not be brought back: {why}; clusterctl status"
    _add_hints(error, saved, outcome)


def first_completion(hosts: Hosts, deployment: Deployment, start: Start, progress: Progress) -> Completion:
    """A completion that came back to the operator's side, not only to the agent's.

    Clients may be faster: it waits its turn behind their requests. Raises StartFailedError; LateCompletionError when
    the agent has seen a completion meanwhile, so that it is known that the cluster serves.
    """
    progress.detail("waiting for a completion through SSH to the head")
    head = hosts.head.name
    before = _canary(hosts, deployment)
    with api_client(hosts, deployment.endpoint) as client:
        answer = complete(client, deployment.inventory.served_name, timeout_s=FIRST_COMPLETION_S)
    if isinstance(answer, Completion):
        return answer
    what = f"no completion came back through SSH to the head: {answer.reason}"
    after = _canary(hosts, deployment)
    if after is not None and after != before:
        raise LateCompletionError(f"{head}: {what}; its agent's own came back meanwhile, so the cluster serves")
    raise StartFailedError(head, what, phase=start.phase, lines=list(start.tails.get(head, ())))


def _canary(hosts: Hosts, deployment: Deployment) -> float | None:
    """When the head's agent last had a completion, while it says that the cluster serves; None otherwise."""
    said = json_in(hosts.head, container_name(deployment.inventory.cluster), STATE_PATH)
    if not isinstance(said, Mapping) or said.get("phase") != "serving":
        return None
    return float((said.get("canary") or {}).get("t", 0))


def _give_up(
    hosts: Hosts,
    prepared: Prepared,
    started: Mapping[str, str],
    error: ClusterctlError,
    lock: ClusterLock,
    *,
    keep: bool,
) -> None:
    """Collect the evidence, then remove what this run started, where nobody else has the lock by now; the error says
    so."""
    if keep:
        _add_hints(error, "what this run started is left as it is (--keep); clusterctl diagnose collects the evidence")
        return
    saved = collect_after_failure(hosts, error, None)
    lost = lock.lost()
    mine = {name: container for name, container in started.items() if name in hosts.connected and name not in lost}
    left = remove(hosts, mine)
    removed = "what this run started was removed (--keep leaves it)"
    if lost:
        removed = f"what this run started was left on {', '.join(lost)}, since its lock was lost there"
    _add_hints(error, saved if left else f"{saved}; {removed}")
    if hosts.head.name in mine and prepared.keys.generated and prepared.keys.held is not None:
        _add_hints(error, "the API's generated key went with the old container: the next `up` makes a new one")
    note_leftovers(error, left)


def _add_hints(error: ClusterctlError, *hints: str) -> None:
    error.hint = "\n     ".join([*([error.hint] if error.hint else []), *hints])


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
        stages=stages(state.get("workers") or {}, names),
        kv_cache=vllm_log.kv_cache([*start.kept, *state.get("kept", ())]),
        completion=completion,
        new_api_key=prepared.keys.generated and prepared.keys.held is None,
        warnings=prepared.findings,
        timings_s={phase: round(seconds, 2) for phase, seconds in timings.items()},
    )
