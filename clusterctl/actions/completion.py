"""The completion that `up` asks for before it reports success."""

from __future__ import annotations

from collections.abc import Sequence

from clusterctl.actions.follow import Start, StartFailedError
from clusterctl.agent.paths import container_name
from clusterctl.agent.state import GONE
from clusterctl.errors import ClusterctlError
from clusterctl.facts.containers import agent_in
from clusterctl.hosts.host import Hosts
from clusterctl.lock.run import Run
from clusterctl.modes.place import Deployment
from clusterctl.status.server import Completion, api_client, complete

FIRST_COMPLETION_S = 300
"""For the completion that `up` asks for: as long as the agent waits for its own first one (agent.py)."""


class LateCompletionError(ClusterctlError):
    """The cluster serves others, and the completion that `up` asked for did not come in time. Nothing was undone."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="nothing was removed; clusterctl up asks again, and turns supervision on")


class EndedMeanwhileError(ClusterctlError):
    """Completions came back, and a node's part of the cluster ended before `up` did. Nothing was undone."""


def first_completion(run: Run, deployment: Deployment, start: Start) -> Completion:
    """A completion that came back to the operator's side, not only to the agent's.

    Of several engines each is asked, and the slowest answer returned. Clients may be faster: it waits its turn behind
    their requests. Raises StartFailedError; LateCompletionError when the agent has seen a completion meanwhile, so that
    it is known that the cluster serves.
    """
    run.progress.detail("waiting for a completion from the head")
    hosts = run.hosts
    head = hosts.head.name
    before = _canary(hosts, deployment)
    answers: list[Completion] = []
    with api_client(hosts, deployment.inventory, deployment.endpoint) as client:
        for engine in _engines(deployment):
            answer = complete(client, deployment.inventory.served_name, timeout_s=FIRST_COMPLETION_S, engine=engine)
            if not isinstance(answer, Completion):
                break
            answers.append(answer)
        else:
            return max(answers, key=lambda answer: answer.latency_s)
    source = "the head" if engine is None else f"engine {engine}"
    what = f"no completion came back from {source}: {answer.reason}"
    after = _canary(hosts, deployment)
    if after is not None and after != before:
        raise LateCompletionError(f"{head}: {what}; its agent's own came back meanwhile, so the cluster serves")
    raise StartFailedError(head, what, phase=start.phase, lines=list(start.tails.get(head, ())))


def ensure_still_there(run: Run, deployment: Deployment) -> None:
    """Read every node's agent once more, the last thing before success is reported.

    A container that was told to end answers for seconds more: what it completed then is no proof (seen with a Docker
    Engine that was stopped while `up` turned supervision on). Raises EndedMeanwhileError.
    """
    hosts, container = run.hosts, container_name(deployment.inventory.cluster)
    agents = hosts.each(lambda host: agent_in(host, container), deployment.places).values
    ended = []
    for name in deployment.places:
        phase = agents[name].phase
        if phase is None:
            ended.append(f"{name} (its agent cannot be read any more)")
        elif phase in (*GONE, "draining") or (name == hosts.head.name and phase != "serving"):
            ended.append(f"{name} (its agent says: {phase})")
    if ended:
        raise EndedMeanwhileError(
            f"completions came back, and then this ended: {', '.join(ended)}",
            hint="nothing was removed; clusterctl status says what is there now, clusterctl up repairs it",
        )


def _engines(deployment: Deployment) -> Sequence[int | None]:
    """Whom to ask: each of several engines by its rank. One engine is not named to the server."""
    count = deployment.layout.data_parallel
    return range(count) if count > 1 else (None,)


def _canary(hosts: Hosts, deployment: Deployment) -> float | None:
    """When the head's agent last had a completion, while it says that the cluster serves; None otherwise."""
    agent = agent_in(hosts.head, container_name(deployment.inventory.cluster))
    return (agent.canary_t or 0) if agent.serving else None
