"""The difference between what should be and what is, as a value: printable, JSON, and what `apply` carries out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from clusterctl.agent.labels import LABEL_SPEC
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.records import ContainerFacts
from clusterctl.modes.all import mode_of
from clusterctl.modes.engines import EngineStatus
from clusterctl.modes.place import Deployment, GpuRequest
from clusterctl.planning.container import ContainerSpec, container_specs, restart_policy
from clusterctl.planning.difference import Change, changes_of
from clusterctl.planning.files import SERVER_FILES
from clusterctl.planning.steps import KINDS, NEW_CONTAINER, Create, Keep, Replace, RestartServer, Step, Update


@dataclass(frozen=True)
class Plan:
    """What `up` does, node by node in inventory order."""

    cluster: str
    steps: tuple[Step, ...]
    executor: str
    data_parallel: int
    expert_parallel: bool
    engines: tuple[EngineStatus, ...]
    why: str | None = None
    """Why it is this executor, where somebody has decided it."""
    requests: Mapping[str, GpuRequest] = field(default_factory=dict)
    """Node → how its container asks for GPUs; none where there are none."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return all(isinstance(step, Keep) for step in self.steps)

    @property
    def new_gang(self) -> bool:
        """Whether the nodes get new containers."""
        return any(isinstance(step, NEW_CONTAINER) for step in self.steps)

    @property
    def restarts_server(self) -> bool:
        """Whether the server gets other options and the containers stay."""
        return any(isinstance(step, RestartServer) for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """The plan for machines."""
        return {
            "cluster": self.cluster,
            "changes": not self.empty,
            "executor": self.executor,
            "executor_reason": self.why,
            "data_parallel": self.data_parallel,
            "expert_parallel": self.expert_parallel,
            "engines": [asdict(engine) for engine in self.engines],
            "accelerator_requests": {name: _said(request) for name, request in self.requests.items()},
            "nodes": [step.to_json() for step in self.steps],
        }

    def history(self) -> Iterator[str]:
        """What is done, in a line for each kind of step: for the record on the nodes. Nothing when nothing is."""
        for kind in KINDS:
            steps = [step for step in self.steps if isinstance(step, kind) and not isinstance(step, Keep)]
            changes = dict.fromkeys(str(change) for step in steps for change in step.changes)
            why = dict.fromkeys(reason for step in steps for reason in step.reasons)
            if steps:
                yield f"{kind.action} on {', '.join(step.node for step in steps)}: {'; '.join([*why, *changes])}"

    def lines(self) -> Iterator[str]:
        """The plan for a person; what it starts is said where it starts something."""
        if self.why is not None and not self.empty:
            yield f"executor {self.executor}: {self.why}"
        if not self.empty:
            yield from self._request_lines()
        yield from self.step_lines()

    def _request_lines(self) -> Iterator[str]:
        """How GPUs are asked for; one line where all nodes do it alike."""
        alike: dict[tuple[str, str], list[str]] = {}
        for name, request in self.requests.items():
            alike.setdefault((request.way, request.why), []).append(name)
        for (way, why), names in alike.items():
            of = f" of {', '.join(names)}" if len(alike) > 1 else ""
            yield f"GPUs{of} by {WAYS[way]}: {why}"

    def step_lines(self) -> Iterator[str]:
        """What is changed, for a person."""
        if self.empty:
            yield f"{self.cluster}: nothing to do"
            return
        for step in self.steps:
            yield from step.lines()
        counts = {kind: sum(isinstance(step, kind) for step in self.steps) for kind in KINDS}
        yield ", ".join(f"{n} to {kind.action}" for kind, n in counts.items() if n or kind in (Create, Replace, Keep))


WAYS = {"cdi": "CDI", "toolkit": "the toolkit", "files": "device files"}


def make_plan(deployment: Deployment, facts: ClusterFacts, *, anew: bool = False, other_key: bool = False) -> Plan:
    """Compare. The gang starts and ends together: a rank that is lost takes the server with it (vllm-ray-facts), so
    one node's change replaces every node's container; unless it is only of files that can be replaced live.

    `anew`: replace everything, whether it differs or not (`restart`). `other_key`: the API's key in the head's
    container is not the one that it shall be, which no record shows.
    """
    specs = container_specs(deployment)
    found = {name: _containers(facts, name) for name in specs}
    verdicts = {name: _verdict(spec, found[name], anew=anew) for name, spec in specs.items()}
    changed = [name for name, (reasons, _) in verdicts.items() if reasons]
    if changed:
        steps = [_replaced(name, specs[name], found[name], verdicts[name], changed) for name in specs]
    else:
        wanted = restart_policy(deployment.inventory)
        policy = wanted if _serves(found[deployment.head.name]) else None
        keyed = deployment.head.name if other_key else None
        steps = [_kept(name, specs[name], found[name], policy, other_key=name == keyed) for name in specs]
        steps = _restarted_by_head(steps, deployment.head.name)
    inventory = deployment.inventory
    return Plan(
        inventory.cluster,
        tuple(steps),
        executor=mode_of(inventory).name,
        data_parallel=deployment.layout.data_parallel,
        expert_parallel=inventory.serve.expert_parallel,
        engines=tuple(EngineStatus(each.rank, each.nodes) for each in mode_of(inventory).engines(deployment)),
        requests={name: place.gpus for name, place in deployment.places.items() if place.gpus is not None},
    )


def _said(request: GpuRequest) -> Mapping[str, Any]:
    return {"request": request.way, "reason": request.why, "count": request.count, "devices": list(request.names)}


def _restarted_by_head(steps: list[Step], head: str) -> list[Step]:
    """A server that lies on several nodes is started anew by the head's agent, which has the others start their parts
    anew; these only get their files. The head is asked also where only a follower's files differ."""
    restarts = [step.node for step in steps if isinstance(step, RestartServer)]
    if not restarts or restarts == [head]:
        return steps
    return [_by_head(step, head) for step in steps]


def _by_head(step: Step, head: str) -> Step:
    if step.node == head and not isinstance(step, RestartServer):
        return RestartServer(head, (*step.reasons, "another node has other options"), *_rest(step))
    if step.node != head and isinstance(step, RestartServer):
        return Update(step.node, (*step.reasons, "the head has it start its part of the server anew"), *_rest(step))
    return step


def _rest(step: Step) -> tuple[tuple[Change, ...], ContainerSpec, tuple[ContainerFacts, ...]]:
    return step.changes, step.spec, step.existing


Verdict = tuple[tuple[str, ...], tuple[Change, ...]]


def _containers(facts: ClusterFacts, name: str) -> tuple[ContainerFacts, ...]:
    containers = facts.nodes[name].containers
    return () if isinstance(containers, Unknown) else containers


def _serves(containers: tuple[ContainerFacts, ...]) -> bool:
    return bool(containers) and containers[0].agent.serving


def _replaced(
    name: str, spec: ContainerSpec, existing: tuple[ContainerFacts, ...], verdict: Verdict, changed: list[str]
) -> Step:
    reasons, changes = verdict
    others = [other for other in changed if other != name]
    if not reasons:
        reasons = (f"the gang is replaced together with {', '.join(others)}",)
    kind = Replace if existing else Create
    return kind(name, reasons, changes, spec, existing)


def _kept(
    name: str, spec: ContainerSpec, existing: tuple[ContainerFacts, ...], policy: str | None, *, other_key: bool
) -> Step:
    """A container that stays: whether files in it are replaced, and whether the server must read them anew.

    `policy`: the restart policy that it should have by now; None while nobody has seen the cluster serve.
    """
    (container,) = existing
    reasons = []
    differing: list[str] = []
    changes: tuple[Change, ...] = ()
    if isinstance(container.spec, Mapping):
        old, new = container.spec.get("files") or {}, spec.values()["files"]
        differing = [path for path in spec.live_files if old.get(path) != new[path]]
        changes = changes_of(container.spec, spec) if differing else ()
    if policy is not None and container.restart_policy != policy:
        was_cut_off = policy != "no" and container.restart_policy == "no"
        reasons.append("an `up` was cut off before it had seen the cluster serve" if was_cut_off else "supervise")
        changes += (Change("restart policy", container.restart_policy, policy),)
    kind: type[Step] = Update if differing or reasons else Keep
    if any(path in SERVER_FILES for path in differing):
        kind = RestartServer
        reasons.insert(0, "the server was started with other options")
    if other_key:
        kind = RestartServer
        reasons.insert(0, "the server was started with another API key")
    return kind(name, tuple(reasons), changes, spec, existing)


def _verdict(spec: ContainerSpec, existing: tuple[ContainerFacts, ...], *, anew: bool) -> Verdict:
    """Why the node's container cannot stay as it is; no reasons when it can."""
    if not existing:
        return ("no container of this cluster on the node",), ()
    if len(existing) > 1:
        return (f"{len(existing)} containers carry this cluster's label",), ()
    container = existing[0]
    reasons = ["a restart was asked for"] if anew else []
    if container.labels.get(LABEL_SPEC) != spec.hash:
        reasons.append("it was started with other values")
    # Also those that alone would take no new container: it will be started with them, whatever replaces it.
    changes = changes_of(container.spec, spec) if isinstance(container.spec, Mapping) else ()
    if container.ended:
        reasons.append(f"it is not running ({container.status}, exit code {container.exit_code})")
    elif container.agent.phase == "failed":
        reasons.append(f"it failed: {container.agent.detail or 'no reason recorded'}")
    elif container.agent.ending:
        reasons.append(
            f"its server was stopped for {container.agent.by}, whose command was interrupted before it was done"
        )
    return tuple(reasons), changes
