"""`up`, told as the pipeline of docs/explanation/architecture.md: check, plan, apply, wait for a real completion."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clusterctl.actions.changes import adopt, apply_plan
from clusterctl.actions.completion import ensure_still_there, first_completion
from clusterctl.actions.prepare import prepare_to_start
from clusterctl.actions.summary import UpSummary, summary
from clusterctl.actions.undo import undone_on_failure
from clusterctl.actions.wait import wait_until_serving
from clusterctl.lock.run import Run


@dataclass(frozen=True)
class UpOptions:
    """How an operator wants it done."""

    keep: bool = False
    """Leave what was started when the start fails; otherwise it is removed after evidence was collected."""
    full_check: bool = True
    """Try in small what will be started: seconds, before minutes of loading."""
    anew: bool = False
    """Replace what runs, whether it differs from the inventory or not."""
    drain_s: float | None = None
    """For running requests of what is replaced; None: timeouts.drain_s."""


def up(run: Run, asked: UpOptions) -> UpSummary:
    """Make the cluster what the inventory declares, prove it with a completion, and have it heal from then on.

    What this run started is removed again when it fails, and a server that was only given other options gets its old
    ones back: what ran before is not lost. Raises ChecksFailedError, LockLostError, NodesError, StartFailedError.
    """
    prepared = prepare_to_start(run, full_check=asked.full_check, anew=asked.anew)
    run = replace(run, inventory=prepared.inventory)
    with undone_on_failure(run, prepared, keep=asked.keep) as undo:
        started = apply_plan(run, prepared, undo, drain_s=asked.drain_s)
        served = wait_until_serving(run, prepared, started)
        completion = first_completion(run, prepared.deployment, served)
    adopt(run, prepared, started)
    ensure_still_there(run, prepared.deployment)
    came_up = summary(run, prepared, served, completion)
    if prepared.plan.new_gang:
        run.lock.note_start(came_up.timings_s)
    return came_up
