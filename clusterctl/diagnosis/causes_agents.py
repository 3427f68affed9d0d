"""Causes that the agents recorded, and what they are waiting for."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.agent.reasons import FAILURES, MEANINGS
from clusterctl.agent.state import AgentState
from clusterctl.diagnosis.cause import SHOWN_LINES, Cause, Certainty, nearest_cause
from clusterctl.diagnosis.causes_containers import idle_cause
from clusterctl.diagnosis.causes_logs import unstamped
from clusterctl.diagnosis.evidence import ContainerEvidence, Evidence
from clusterctl.signatures import vllm as vllm_log
from clusterctl.signatures.text import shortened

# Reasons of agents that are facts, not symptoms.
EXACT = frozenset({"ray-nodes-wrong"})


def agent_causes(evidence: Evidence, found: list[Cause]) -> Iterator[Cause]:
    """The reasons that agents recorded, and how often something was restarted."""
    reasons = [cause for cause in found if cause.certainty in (Certainty.CERTAIN, Certainty.LIKELY)]
    for name, node in evidence.nodes.items():
        for container in node.containers or ():
            restarts = _restarts(container)
            better = nearest_cause(reasons, (name,))
            if evidence.serving:
                if restarts:
                    yield _restarted(name, container, restarts)
                continue
            if waits := _waiting(name, container, better):
                yield waits
            if recorded := _recorded(container.agent, evidence.survived_t):
                reason, detail, t = recorded
                exact = reason in EXACT
                why = "the node's agent recorded it" + (f", after {restarts} restarts" if restarts else "")
                if better is not None and not exact:
                    why += f"; [{better.name}] explains it better"
                yield Cause(
                    Certainty.CERTAIN if exact else Certainty.CONSEQUENCE if better else Certainty.LIKELY,
                    (name,),
                    reason,
                    _agent_lines(container, detail),
                    MEANINGS.get(reason, reason),
                    f"read its log (clusterctl logs --node {name}) and docs/runbooks/start-failed.md",
                    why,
                    t,
                )
            elif (better is None or name not in better.nodes) and (idle := idle_cause(name, container, node.commands)):
                yield idle


def _recorded(agent: AgentState, survived_t: float | None) -> tuple[str, str, float | None] | None:
    """Why an agent ended, or last started something again in this outage: reason, detail, time."""
    if agent.reason:
        return agent.reason, agent.detail or "", agent.since
    last = agent.last_restart
    if last is None or last.reason in ("", "requested") or (last.t is not None and last.t < (survived_t or 0)):
        return None
    return last.reason, last.detail, last.t


def _waiting(node: str, container: ContainerEvidence, better: Cause | None) -> Cause | None:
    """What the head's gate waits for. Every start passes through it, so it is a sign of trouble only afterwards."""
    agent = container.agent
    if not container.running or agent.phase != "gate" or not agent.waiting_for:
        return None
    first = not agent.restarts and agent.canary_t is None
    certainty, why = Certainty.LIKELY, "the head's agent reports it, and cannot continue without"
    if first:
        certainty, why = Certainty.POSSIBLE, "every start waits here until all nodes are in Ray"
    elif better is not None:
        certainty, why = Certainty.CONSEQUENCE, f"the head's agent reports it; [{better.name}] explains it better"
    return Cause(
        certainty,
        (node,),
        "waiting",
        (shortened(agent.waiting_for),),
        "the server starts only once exactly the declared nodes are in Ray",
        "clusterctl status shows what runs on the nodes that it names, clusterctl check what is wrong with them",
        why,
        agent.since,
    )


def _restarts(container: ContainerEvidence) -> int:
    """Restarts that the engine counts, or the agent, whose record outlives them (and keeps the last ones only)."""
    return max(container.restarts, container.agent.restarts_total)


def _restarted(node: str, container: ContainerEvidence, restarts: int) -> Cause:
    agent, last = container.agent, container.agent.last_restart
    reason, detail, t = (last.reason, last.detail, last.t) if last else (agent.reason, agent.detail, None)
    return Cause(
        Certainty.PAST,
        (node,),
        str(reason or "restarted"),
        (f"restarted {restarts} times" + (f", last: {shortened(str(detail or reason))}" if reason else ""),),
        FAILURES.get(str(reason), "something was restarted, and the cluster has recovered"),
        "nothing to do now; if it happens again, run clusterctl diagnose at once, while the log still shows it",
        "the cluster serves again",
        t,
    )


def _agent_lines(container: ContainerEvidence, detail: str) -> tuple[str, ...]:
    logged = vllm_log.cause_lines(unstamped(container.log), SHOWN_LINES - 1)
    return tuple(shortened(line) for line in [detail, *logged] if line)
