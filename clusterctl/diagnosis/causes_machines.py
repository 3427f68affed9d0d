"""Causes that lie in the machines: unreachable nodes, the kernel's log, findings."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.diagnosis.cause import Cause, Certainty
from clusterctl.diagnosis.causes_logs import each_once
from clusterctl.diagnosis.evidence import SETTLE_S, Evidence, NodeEvidence
from clusterctl.findings.finding import is_error
from clusterctl.signatures import kernel as kernel_log
from clusterctl.signatures.signature import explained
from clusterctl.signatures.text import shortened

RECENT_S = 3600
"""Seconds: on a node without a container, older faults in the kernel's log say nothing about now."""


def machine_causes(evidence: Evidence) -> Iterator[Cause]:
    """Nodes that do not answer, and what the kernels of the others say."""
    found = {node for finding in evidence.findings if finding.code == "node-unreachable" for node in finding.nodes}
    for node, (reason, fix) in evidence.unreachable.items():
        if node not in found:
            yield Cause(
                Certainty.CERTAIN,
                (node,),
                "node-unreachable",
                (shortened(reason),),
                "the node was not reached; until it is back, the others wait for it in vain",
                fix or "check that the machine is on and reachable over SSH: clusterctl check",
                "the cluster needs all of its nodes",
            )
    for name, node_evidence in evidence.nodes.items():
        yield from _kernel(name, node_evidence, evidence.survived_t, serving=evidence.serving)


def _kernel(name: str, node: NodeEvidence, survived_t: float | None, *, serving: bool) -> Iterator[Cause]:
    starts = [c.started_t for c in node.containers or () if c.started_t is not None]
    recent = node.now - RECENT_S if node.now is not None else None
    since = min(starts) - SETTLE_S if starts else recent
    if since is None:
        return
    if survived_t is not None and not serving:
        since = max(since, survived_t)
    lines = [(t, line) for t, line in kernel_log.timed(node.kernel) if t is not None and t >= since]
    times = {line: t for t, line in reversed(lines)}
    for hit in each_once(explained(kernel_log.SIGNATURES, [line for _, line in lines])):
        yield Cause(
            Certainty.POSSIBLE if serving else Certainty.CERTAIN,
            (name,),
            hit.failure_mode or "kernel",
            (shortened(hit.line),),
            hit.meaning,
            hit.fix,
            "the cluster serves all the same" if serving else "the node's kernel logged it while the container existed",
            next((t for line, t in times.items() if line.strip() == hit.line), None),
            hit.signature,
        )


def finding_causes(evidence: Evidence) -> Iterator[Cause]:
    """Findings of the checks that would stop a start."""
    for finding in evidence.findings:
        if is_error(finding):
            yield Cause(
                Certainty.POSSIBLE if evidence.serving else Certainty.CERTAIN,
                finding.nodes,
                finding.code,
                (shortened(finding.seen),),
                finding.why,
                finding.fix,
                "the cluster serves, but its next start would fail"
                if evidence.serving
                else "`check` sees it now, and a start fails because of it",
            )
