"""`up`, told as the pipeline of docs/explanation/architecture.md: check, plan, apply, wait for a real completion."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from clusterctl.actions.completion import LateCompletionError, first_completion
from clusterctl.actions.prepare import Prepared, examine, prepare
from clusterctl.actions.summary import UpSummary, summary_of
from clusterctl.actions.undo import give_up, put_back_options
from clusterctl.actions.wait import restarts_server, wait_until_serving
from clusterctl.apply.adopt import adopt
from clusterctl.apply.gang import apply
from clusterctl.errors import ClusterctlError
from clusterctl.hosts.host import Hosts
from clusterctl.lock.cluster import ClusterLock
from clusterctl.planning.container import restart_policy
from clusterctl.preflight.container import remove_probes
from clusterctl.progress import Progress


@dataclass(frozen=True)
class UpOptions:
    """How an operator wants it done."""

    by: str
    """Who asks, for the record: user@host."""
    keep: bool = False
    """Leave what was started when the start fails; otherwise it is removed after evidence was collected."""
    full_check: bool = True
    """Try in small what will be started: seconds, before minutes of loading."""
    anew: bool = False
    """Replace what runs, whether it differs from the inventory or not."""
    drain_s: float | None = None
    """For running requests of what is replaced; None: timeouts.drain_s."""


def up(hosts: Hosts, progress: Progress, lock: ClusterLock, asked: UpOptions) -> UpSummary:
    """Make the cluster what the inventory declares, prove it with a completion, and have it heal from then on.

    What this run started is removed again when it fails, and a server that was only given other options gets its old
    ones back: what ran before is not lost. Raises ChecksFailedError, LockLostError, NodesError, StartFailedError.
    """
    began = time.monotonic()
    progress.phase("checking the nodes")
    prepared = prepare(hosts, progress, anew=asked.anew)
    if asked.full_check and prepared.plan.new_gang:
        progress.detail("running the image on every node, and trying the network between them")
        prepared = examine(hosts, prepared)
    lock.ensure()
    remove_probes(hosts, prepared.facts)
    checks_s = time.monotonic() - began
    applying = time.monotonic()
    drain_s = hosts.inventory.timeouts.drain_s if asked.drain_s is None else asked.drain_s
    for change in prepared.plan.history():
        lock.note(change)
    started: dict[str, str] = {}
    applied = False
    try:
        apply(
            hosts,
            prepared.deployment,
            prepared.plan,
            progress,
            lock,
            keys=prepared.keys,
            by=asked.by,
            drain_s=drain_s,
            created=started,
        )
        applied = True
        containers_s = time.monotonic() - applying
        start = wait_until_serving(hosts, prepared, started, progress, lock)
        completion = first_completion(hosts, prepared.deployment, start, progress)
    except LateCompletionError:
        raise  # it serves: nothing is to be undone
    except ClusterctlError as error:
        if started:
            give_up(hosts, prepared, started, error, lock, keep=asked.keep)
        elif applied and restarts_server(prepared.plan):
            put_back_options(hosts, prepared, error, progress, lock, by=asked.by)
        raise
    lock.ensure()
    _adopt(hosts, prepared, started)
    waited = {**start.timings, "containers": containers_s + start.timings.get("containers", 0.0)}
    timings = {"checks": checks_s, **waited, "total": time.monotonic() - began}
    return summary_of(hosts, prepared, start, completion, timings, changed=not prepared.plan.empty)


def _adopt(hosts: Hosts, prepared: Prepared, started: Mapping[str, str]) -> None:
    """Turn supervision on, or off, where it is not yet as declared."""
    policy = restart_policy(hosts.inventory)
    existing = {
        node.node: node.existing[0].id
        for node in prepared.plan.nodes
        if not node.new_container and node.existing[0].restart_policy != policy
    }
    try:
        adopt(hosts, {**existing, **started}, policy)
    except ClusterctlError as error:
        error.hint = "the cluster serves, but does not heal everywhere yet; clusterctl up"
        raise
