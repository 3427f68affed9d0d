"""Causes that the agents recorded, and what they wait for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clusterctl.agent.reasons import FAILURES, MEANINGS
from clusterctl.diagnosis.cause import SHOWN_LINES, Cause, Certainty, nearest_cause, short
from clusterctl.diagnosis.causes_containers import idle_cause
from clusterctl.diagnosis.causes_logs import unstamped
from clusterctl.diagnosis.evidence import ContainerEvidence, Evidence, as_number
from clusterctl.signatures import vllm as vllm_log

# Reasons of agents that are a fact and no symptom.
EXACT = frozenset({"ray-nodes-wrong"})


def agent_causes(evidence: Evidence, found: list[Cause]) -> Iterator[Cause]:
    """The reasons that agents recorded, and how often something was restarted."""
    reasons = [cause for cause in found if cause.certainty in (Certainty.CERTAIN, Certainty.LIKELY)]
    for name, node in evidence.nodes.items():
        for container in node.containers or ():
            state = container.state
            restarts = _restarts(container)
            better = nearest_cause(reasons, (name,))
            if evidence.serving:
                if restarts:
                    yield _restarted(name, container, restarts)
                continue
            if waits := _waiting(name, container, better):
                yield waits
            if recorded := _recorded(state, evidence.survived_t):
                reason, detail, t = recorded
                exact = reason in EXACT
                why = "the node's agent recorded it" + (f", after {restarts} restarts" if restarts else "")
                if better is not None and not exact:
                    why += f"; what made it happen is better told by [{better.code}]"
                yield Cause(
                    Certainty.CERTAIN if exact else Certainty.CONSEQUENCE if better else Certainty.LIKELY,
                    (name,),
                    reason,
                    _agent_lines(container, detail),
                    MEANINGS.get(reason, reason),
                    f"read its lines (clusterctl logs --node {name}) and docs/runbooks/start-failed.md",
                    why,
                    t,
                )
            elif (better is None or name not in better.nodes) and (idle := idle_cause(name, container)):
                yield idle


def _recorded(state: Mapping[str, Any], survived_t: float | None) -> tuple[str, str, float | None] | None:
    """Why an agent ended, or last started something again in this outage: reason, detail, time."""
    if reason := state.get("reason"):
        return str(reason), str(state.get("detail") or ""), as_number(state.get("since"))
    own = state.get("restarts")
    last = own[-1] if isinstance(own, list) and own and isinstance(own[-1], Mapping) else {}
    t = as_number(last.get("t"))
    if not last.get("reason") or last["reason"] == "requested" or (t is not None and t < (survived_t or 0)):
        return None
    return str(last["reason"]), str(last.get("detail") or ""), t


def _waiting(node: str, container: ContainerEvidence, better: Cause | None) -> Cause | None:
    """What the head's gate waits for; a start passes through it, so it tells something only after one."""
    waits_for = container.state.get("waiting_for")
    if not container.running or container.state.get("phase") != "gate" or not waits_for:
        return None
    first = not container.state.get("restarts") and not container.state.get("canary")
    certainty, why = Certainty.LIKELY, "the head's agent says so, and cannot go on without"
    if first:
        certainty, why = Certainty.POSSIBLE, "every start waits here until all nodes are in Ray"
    elif better is not None:
        certainty, why = Certainty.CONSEQUENCE, f"the head's agent says so; why is better told by [{better.code}]"
    return Cause(
        certainty,
        (node,),
        "waiting",
        (short(str(waits_for)),),
        "the server starts when exactly the declared nodes are in Ray, and not before",
        "clusterctl status: what runs on the nodes that it names? clusterctl check: are they fit?",
        why,
        as_number(container.state.get("since")),
    )


def _restarts(container: ContainerEvidence) -> int:
    """Restarts that the engine counts, or the agent, whose record outlives them (and keeps the last ones only)."""
    total, own = container.state.get("restarts_total"), container.state.get("restarts")
    counted = total if isinstance(total, int) else len(own) if isinstance(own, list) else own
    return max(container.restarts, counted if isinstance(counted, int) else 0)


def _restarted(node: str, container: ContainerEvidence, restarts: int) -> Cause:
    own = container.state.get("restarts")
    last = own[-1] if isinstance(own, list) and own and isinstance(own[-1], Mapping) else container.state
    reason = last.get("reason")
    return Cause(
        Certainty.PAST,
        (node,),
        str(reason or "restarted"),
        (f"restarted {restarts} times" + (f", last: {short(str(last.get('detail') or reason))}" if reason else ""),),
        FAILURES.get(str(reason), "something was restarted, and the cluster has healed"),
        "nothing to do now; when it comes again: clusterctl diagnose at once, while the log still tells of it",
        "the cluster serves again",
        as_number(last.get("t")),
    )


def _agent_lines(container: ContainerEvidence, detail: str) -> tuple[str, ...]:
    said = vllm_log.cause_lines(unstamped(container.log), SHOWN_LINES - 1)
    return tuple(short(line) for line in [detail, *said] if line)
