"""`restart`: a new server in the gang that runs, or everything anew; running requests end first."""

from __future__ import annotations

from dataclasses import replace

from clusterctl.actions.completion import first_completion
from clusterctl.actions.follow import follow
from clusterctl.actions.prepare import prepare
from clusterctl.actions.summary import UpSummary, summary
from clusterctl.actions.up import UpOptions, up
from clusterctl.actions.wait import from_now_on, head_container
from clusterctl.agent.state import AgentState
from clusterctl.apply.requests import ask_agent
from clusterctl.errors import ClusterctlError
from clusterctl.lock.run import Run


def restart(run: Run, asked: UpOptions) -> UpSummary:
    """Replace the whole gang, as `up` does when something differs. Raises what `up` raises, and ClusterctlError when
    nothing runs that could be restarted."""
    cluster = run.inventory.cluster
    run.progress.phase("reading what runs")
    running = run.hosts.each(lambda host: host.engine.containers(cluster)).or_raise("reading what runs")
    if not any(running.values()):
        raise ClusterctlError(f"{cluster}: nothing runs that could be restarted", hint="clusterctl up")
    return up(run, replace(asked, anew=True))


def restart_server(run: Run, *, drain_s: float | None) -> UpSummary:
    """Have the head's agent end the server, after `drain_s` seconds for running requests (None: timeouts.drain_s), and
    start it again with the options that it has; everything else stays.

    Raises ClusterctlError when there is no gang whose server could be restarted, StartFailedError.
    """
    run.progress.phase("reading what runs")
    prepared = prepare(run.hosts, run.inventory, run.progress)
    run = replace(run, inventory=prepared.inventory)
    head = run.inventory.head_name
    container = head_container(prepared.facts, head)
    agent = container.agent if container is not None and container.running else AgentState()
    if container is None or not (agent.has_server or agent.phase == "drained"):
        phase = agent.phase or "not running"
        raise ClusterctlError(f"{head}: there is no server to restart (the head is {phase})", hint="clusterctl up")
    run.progress.phase("stopping the server")
    run.lock.ensure()
    ask_agent(run.hosts.head, container.id, "restart", by=run.by, drain_s=drain_s)
    start = follow(run, from_now_on(prepared.facts), after=agent.server, drain_s=drain_s)
    completion = first_completion(run, prepared.deployment, start)
    return replace(summary(run, prepared, start, completion), changed=True)
