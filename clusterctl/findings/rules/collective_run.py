"""The all-reduce of `check --nccl` was run, and ended with the right sum on every rank."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.collective import Collective, NodeRun
from clusterctl.facts.fact import Unknown
from clusterctl.findings.code import ERROR, WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory
from clusterctl.signatures.signature import Explanation

FAILED = Code(
    name="collective-failed",
    severity=ERROR,
    title="The all-reduce failed",
    runbook="collective.md",
    seen="an all-reduce of {world} ranks ({backend}) failed: {errors}",
    why="vLLM's first collective would fail or hang in the same way",
    fix="clusterctl check (ports and MTU of every pair), then look at the node named first",
    note="Errors are shown as `NODE: which rank, and its error`. Where a line of NCCL's log explains it, why and "
    "fix are the explained cause's.",
)
EXPLAINED = FAILED.variant(why="{meaning}: {line}", fix="{explained_fix}")
UNKNOWN = Code(
    name="collective-unknown",
    severity=WARNING,
    title="The all-reduce was not run",
    runbook="collective.md",
    seen="the all-reduce was not run: {reason}",
    why="only a run shows which path NCCL uses between the nodes",
    fix="fix what the reason names, then run clusterctl check --nccl again",
)


@rule(Section.COLLECTIVE, FAILED, EXPLAINED, UNKNOWN)
def collective_run(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The all-reduce was run, and ended with the right sum on every rank. One finding: who failed first is what
    matters."""
    ran = facts.deep.collective if facts.deep is not None else None
    if isinstance(ran, Unknown):
        yield UNKNOWN.found(reason=ran.reason)
    elif ran is not None and not ran.passed:
        problems = {name: problem for name, run in ran.nodes.items() if (problem := _problem(ran, name, run))}
        cause = next((cause for run in ran.nodes.values() if isinstance(run, NodeRun) for cause in _causes(run)), None)
        yield (EXPLAINED if cause else FAILED).found(
            *problems,
            world=ran.world,
            backend=ran.backend,
            errors="; ".join(f"{name}: {problem}" for name, problem in problems.items()),
            meaning=cause.meaning if cause else "",
            line=cause.line[:200] if cause else "",
            explained_fix=cause.fix if cause else "",
        )


def _causes(run: NodeRun) -> tuple[Explanation, ...]:
    """Causes of a node that failed. That NCCL found no HCA explains TCP, and no failure, unless RDMA is demanded."""
    if not run.errors and not run.late:
        return ()
    demanded = any("Failed to initialize any NET plugin" in cause.line for cause in run.causes)
    return tuple(cause for cause in run.causes if demanded or cause.failure_mode not in ("F23", "F24", "F25"))


def _problem(ran: Collective, name: str, run: NodeRun | Unknown) -> str:
    """Why a node's part did not end well; empty when it did."""
    if isinstance(run, Unknown):
        return run.reason
    if run.errors:
        rank, error = next(iter(run.errors.items()))
        return f"rank {rank}: {' '.join(error.split())[:300]}"
    missing = [rank for rank in ran.ranks[name] if rank not in run.reduced]
    if not missing:
        return ""
    where = "did not join" if set(missing) - set(run.joined) else "joined, and did not end"
    lines = f" ({run.lines[0][:200]})" if run.lines else ""
    return f"rank {', '.join(map(str, missing))} {where}{'' if run.joined else lines}"
