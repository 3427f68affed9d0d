"""Ranked causes from what all nodes said: pure, so that it can be tried on any evidence.

The order can be explained, and each cause says why it has its place:

- **certain**: seen as a fact (a node that does not answer, an error of `check`, a fault in the kernel's log while the
  container ran, the OOM killer, an engine that could not start the container);
- **likely**: a log line that is known, or the agent's own reason where nothing else is known;
- **possible**: seen, and harmless in other circumstances;
- **consequence**: what the others say once one has died; true, and no reason while another one is known;
- **past**: it happened and the cluster has healed: it serves.

Among equals the first in time stands first: the first fault causes the later ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from clusterctl.diagnosis.cause import CERTAINTY_ORDER, SHOWN_LINES, Cause, Certainty, nearest_cause, short
from clusterctl.diagnosis.causes_agents import agent_causes
from clusterctl.diagnosis.causes_containers import container_causes
from clusterctl.diagnosis.causes_logs import log_cause, log_causes
from clusterctl.diagnosis.causes_machines import finding_causes, machine_causes
from clusterctl.diagnosis.evidence import Evidence
from clusterctl.signatures import vllm as vllm_log

# What peers say when another one has died or cannot be reached. True, and no reason while there is another.
ECHOES = frozenset({"F26", "F35", "F44", "F55", "F60", "F61", "F62"})


def diagnose(evidence: Evidence) -> tuple[Cause, ...]:
    """Every cause that the evidence shows, the best first. Empty: nothing wrong was seen."""
    found = _merged(
        [*machine_causes(evidence), *finding_causes(evidence), *container_causes(evidence), *log_causes(evidence)]
    )
    found += _merged([*agent_causes(evidence, found), *_said(evidence, found)])
    order = {name: index for index, name in enumerate([*evidence.unreachable, *evidence.nodes])}
    return tuple(sorted(_settled(evidence, found), key=lambda cause: _place(cause, order)))


def _place(cause: Cause, order: Mapping[str, int]) -> tuple[int, bool, float, int]:
    """Unreachable nodes before findings, both before what has a time: they are true now."""
    timeless = -2.0 if cause.code == "node-unreachable" else -1.0
    first = min((order.get(node, len(order)) for node in cause.nodes), default=len(order))
    return CERTAINTY_ORDER[cause.certainty], cause.t is None and _is_number(cause.code), cause.t or timeless, first


def _is_number(code: str) -> bool:
    return bool(re.fullmatch(r"F\d+|-", code))


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


def _settled(evidence: Evidence, causes: list[Cause]) -> list[Cause]:
    """Echoes become consequences when there is something that is none; what a serving cluster survived is past."""
    reasons = [
        c for c in causes if c.code not in ECHOES and c.certainty in (Certainty.CERTAIN, Certainty.LIKELY)
    ]  # fmt: skip
    settled = []
    for cause in causes:
        reason = nearest_cause(reasons, cause.nodes)
        if cause.code in ECHOES and cause.certainty is Certainty.LIKELY and reason:
            said = f"others say so once one has failed, and there is a reason: [{reason.code}]"
            settled.append(replace(cause, certainty=Certainty.CONSEQUENCE, why=said))
        else:
            settled.append(cause)
    return settled


def _said(evidence: Evidence, found: list[Cause]) -> Iterator[Cause]:
    """What the failed command said, where that is known, or where nothing else is."""
    if not evidence.error:
        return
    lines = evidence.error.splitlines()
    numbers = {cause.code for cause in found}
    known = [hit for hit in vllm_log.causes(lines) if hit.failure_mode not in numbers]
    for hit in known:
        yield replace(log_cause("", Certainty.LIKELY, hit, None), nodes=())
    if not known and not found:
        yield Cause(
            Certainty.POSSIBLE,
            (),
            "error",
            tuple(short(line) for line in lines[:SHOWN_LINES]),
            "nothing that is known explains it",
            "read the nodes' logs; the first line that is no INFO is the one to look for",
            "it is all there is",
        )
