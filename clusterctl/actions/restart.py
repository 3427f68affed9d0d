"""`restart`: a new server in the gang that runs, or everything anew; running requests end first."""

from __future__ import annotations

import time
from dataclasses import replace

from clusterctl.actions.completion import first_completion
from clusterctl.actions.follow import follow
from clusterctl.actions.prepare import prepare
from clusterctl.actions.summary import UpSummary, summary_of
from clusterctl.actions.up import UpOptions, up
from clusterctl.actions.wait import from_now_on, head_container
from clusterctl.agent.state import AgentState
from clusterctl.apply.requests import ask_agent
from clusterctl.errors import ClusterctlError
from clusterctl.hosts.host import Hosts
from clusterctl.lock.cluster import ClusterLock
from clusterctl.progress import Progress


def restart(hosts: Hosts, progress: Progress, lock: ClusterLock, asked: UpOptions) -> UpSummary:
    """Replace the whole gang, as `up` does when something differs. Raises what `up` raises, and ClusterctlError when
    nothing runs that could be restarted."""
    progress.phase("looking at what runs")
    running = hosts.each(lambda host: host.engine.containers(hosts.inventory.cluster)).or_raise("looking at what runs")
    if not any(running.values()):
        raise ClusterctlError(f"{hosts.inventory.cluster}: nothing runs that could be restarted", hint="clusterctl up")
    return up(hosts, progress, lock, replace(asked, anew=True))


def restart_server(hosts: Hosts, progress: Progress, lock: ClusterLock, *, by: str, drain_s: float | None) -> UpSummary:
    """Have the head's agent end the server, after `drain_s` seconds for running requests (None: timeouts.drain_s), and
    start it again with the options that it has; Ray and the containers stay.

    Raises ClusterctlError when there is no gang whose server could be restarted, StartFailedError.
    """
    began = time.monotonic()
    progress.phase("looking at what runs")
    prepared = prepare(hosts, progress)
    head, limits = hosts.inventory.head_name, hosts.inventory.timeouts
    container = head_container(prepared.facts, head)
    agent = container.agent if container is not None and container.running else AgentState()
    if container is None or not (agent.has_server or agent.phase == "drained"):
        phase = agent.phase or "not running"
        raise ClusterctlError(f"{head}: there is no server to restart (the head is {phase})", hint="clusterctl up")
    progress.phase("stopping the server")
    lock.ensure()
    ask_agent(hosts.head, container.id, "restart", by=by, drain_s=drain_s)
    limits = limits.model_copy(update={"drain_s": max(limits.drain_s, drain_s or 0)})
    found, number = from_now_on(prepared.facts), agent.server
    start = follow(hosts, found, head, limits, progress, lost=lock.lost, after=number)
    completion = first_completion(hosts, prepared.deployment, start, progress)
    timings = {**start.timings, "total": time.monotonic() - began}
    return summary_of(hosts, prepared, start, completion, timings, changed=True)
