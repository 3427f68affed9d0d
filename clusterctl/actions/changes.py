"""What `up` changes on the nodes: the plan is carried out, and a cluster that serves is handed over to its agents."""

from __future__ import annotations

from collections.abc import Mapping

from clusterctl.actions.prepare import Prepared
from clusterctl.apply.adopt import adopt as turn_supervision_on
from clusterctl.apply.gang import Change, apply
from clusterctl.apply.undo import Undo, created
from clusterctl.errors import ClusterctlError
from clusterctl.lock.run import Run
from clusterctl.planning.container import restart_policy
from clusterctl.planning.steps import NEW_CONTAINER
from clusterctl.preflight.container import remove_probes


def apply_plan(run: Run, prepared: Prepared, undo: list[Undo], *, drain_s: float | None) -> Mapping[str, str]:
    """Carry out the plan, and put down in the history what it changes. Returns node → ID of its new container.

    `drain_s`: seconds for running requests of what is replaced; None: timeouts.drain_s. `undo` takes what was changed,
    as it happens. Raises NodesError, LockLostError.
    """
    run.lock.ensure()
    remove_probes(run.hosts, prepared.facts)
    run.laps.end("checks")
    for change in prepared.plan.history():
        run.lock.note(change)
    drain_s = run.inventory.timeouts.drain_s if drain_s is None else drain_s
    apply(run, Change(prepared.deployment, prepared.plan, prepared.keys, drain_s), undo)
    run.laps.end("containers")
    return created(undo)


def adopt(run: Run, prepared: Prepared, started: Mapping[str, str]) -> None:
    """Turn supervision on, or off, where it is not yet as declared. Raises NodesError, LockLostError."""
    run.lock.ensure()
    policy = restart_policy(run.inventory)
    existing = {
        step.node: step.existing[0].id
        for step in prepared.plan.steps
        if not isinstance(step, NEW_CONTAINER) and step.existing[0].restart_policy != policy
    }
    try:
        turn_supervision_on(run, {**existing, **started}, policy)
    except ClusterctlError as error:
        error.hint = "the cluster serves, but does not heal everywhere yet; clusterctl up"
        raise
