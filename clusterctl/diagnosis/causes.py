"""Ranked causes from the evidence of all nodes: pure, so that it can be tried on any evidence.

The order can be explained, and each cause says why it has its place:

- **certain**: seen as a fact (a node that does not answer, an error of `check`, a fault in the kernel's log while the
  container ran, the OOM killer, an engine that could not start the container);
- **likely**: a known log line, or the agent's own reason where nothing else is known;
- **possible**: seen, and harmless in other circumstances;
- **consequence**: what the others report once one has died; true, but not the reason while another cause is known;
- **past**: it happened, and the cluster has recovered: it serves.

Among equals the first in time stands first: the first fault causes the later ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from clusterctl.diagnosis.cause import CERTAINTY_ORDER, SHOWN_LINES, Cause, Certainty, nearest_cause
from clusterctl.diagnosis.causes_agents import agent_causes
from clusterctl.diagnosis.causes_containers import container_causes
from clusterctl.diagnosis.causes_hang import hang_causes
from clusterctl.diagnosis.causes_logs import each_once, hits_in, log_cause, log_causes
from clusterctl.diagnosis.causes_machines import finding_causes, machine_causes
from clusterctl.diagnosis.evidence import Evidence
from clusterctl.signatures import kernel as kernel_log
from clusterctl.signatures import vllm as vllm_log
from clusterctl.signatures.signature import explained
from clusterctl.signatures.text import shortened


def diagnose(evidence: Evidence) -> tuple[Cause, ...]:
    """Every cause that the evidence shows, the best first. Empty: nothing wrong was seen."""
    found = _merged(
        [
            *machine_causes(evidence),
            *finding_causes(evidence),
            *container_causes(evidence),
            *hang_causes(evidence),
            *log_causes(evidence),
        ]
    )
    found += _merged([*agent_causes(evidence, found), *_error_causes(evidence, found)])
    order = {name: index for index, name in enumerate([*evidence.unreachable, *evidence.nodes])}
    return tuple(sorted(_settled(found), key=lambda cause: _place(cause, order)))


def explain(text: str) -> tuple[Cause, ...]:
    """The causes that any log shows, wherever it is from, the best first: known lines of vLLM, Ray, NCCL and the
    kernel, and the last error where none is known."""
    found = [log_cause("", certainty, hit, t) for certainty, hit, t in hits_in(text, None)]
    kernel = each_once(explained(kernel_log.SIGNATURES, text.splitlines()))
    found += [log_cause("", Certainty.LIKELY, hit, None) for hit in kernel]
    without_node = [replace(cause, nodes=()) for cause in found]
    return tuple(sorted(_settled(_merged(without_node)), key=lambda cause: _place(cause, {})))


def _place(cause: Cause, order: Mapping[str, int]) -> tuple[int, bool, float, int]:
    """Unreachable nodes before findings, both before what has a time: they are true now."""
    timeless = -2.0 if cause.code == "node-unreachable" else -1.0
    first = min((order.get(node, len(order)) for node in cause.nodes), default=len(order))
    return CERTAINTY_ORDER[cause.certainty], cause.t is None and cause.signature is not None, cause.t or timeless, first


def _merged(causes: Iterable[Cause]) -> list[Cause]:
    """The same cause on several nodes is one, with the first time it was seen."""
    merged: dict[tuple[str, str], Cause] = {}
    for cause in causes:
        key = (cause.code, cause.meaning)
        other = merged.get(key)
        if other is None:
            merged[key] = cause
            continue
        first, last = sorted((other, cause), key=lambda each: (CERTAINTY_ORDER[each.certainty], each.t or 0))
        merged[key] = replace(
            first,
            nodes=tuple(dict.fromkeys([*first.nodes, *last.nodes])),
            seen=tuple(dict.fromkeys([*first.seen, *last.seen]))[:SHOWN_LINES],
        )
    return list(merged.values())


def _settled(causes: list[Cause]) -> list[Cause]:
    """What others log once one has failed becomes a consequence as soon as there is a reason for it."""
    reasons = [c for c in causes if not c.consequence and c.certainty in (Certainty.CERTAIN, Certainty.LIKELY)]
    settled = []
    for cause in causes:
        reason = nearest_cause(reasons, cause.nodes)
        if cause.consequence and cause.certainty is Certainty.LIKELY and reason:
            why = f"the others report this once one has failed, and there is a reason: [{reason.name}]"
            settled.append(replace(cause, certainty=Certainty.CONSEQUENCE, why=why))
        else:
            settled.append(cause)
    return settled


def _error_causes(evidence: Evidence, found: list[Cause]) -> Iterator[Cause]:
    """Causes in the message of the failed command: known lines, or all of it where nothing else was found."""
    if not evidence.error:
        return
    lines = evidence.error.splitlines()
    numbers = {cause.code for cause in found}
    known = [hit for hit in vllm_log.causes(lines) if hit.failure_mode is None or hit.failure_mode not in numbers]
    for hit in known:
        yield replace(log_cause("", Certainty.LIKELY, hit, None), nodes=())
    if not known and not found:
        yield Cause(
            Certainty.POSSIBLE,
            (),
            "error",
            tuple(shortened(line) for line in lines[:SHOWN_LINES]),
            "no known cause matches it",
            "read the nodes' logs, from the first line that is not INFO",
            "there is nothing else",
        )
