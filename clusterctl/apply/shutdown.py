"""Stopping a gang in the order in which it stops well: the server, the workers, the head."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from clusterctl.agent.events import parse_event
from clusterctl.agent.state import GONE
from clusterctl.apply.requests import ask_agent
from clusterctl.errors import ClusterctlError
from clusterctl.facts.containers import agent_in
from clusterctl.hosts.engine.lines import Lines
from clusterctl.hosts.host import Host
from clusterctl.inventory.model import Timeouts
from clusterctl.lock.run import Run

RAY_STOP_S = 10
"""Seconds for Ray to stop, and for the agent to say so (its own deadline is 5 s)."""


@dataclass(frozen=True)
class Member:
    """One container of a gang, as far as stopping it goes."""

    id: str
    role: str
    """`head` or `worker`, read from the container: the inventory may have changed since."""
    running: bool


Gang = Mapping[str, tuple[Member, ...]]
"""Node name → its containers of the cluster."""


def shut_down(run: Run, gang: Gang, *, drain_s: float) -> Mapping[str, ClusterctlError]:
    """Let running requests end for up to `drain_s` seconds, then stop everything; returns what failed, by node.

    The workers are stopped while their head is still there: a raylet that has lost its head takes 30 s to end (Ray
    2.60). Containers that do not run are left as they are.
    """
    heads, workers = _with_role(gang, "head"), _with_role(gang, "worker")
    progress, limits = run.progress, run.inventory.timeouts
    failures: dict[str, ClusterctlError] = {}
    if heads:
        progress.phase("stopping the server")
        progress.detail(f"running requests have {drain_s:g} s to end")
        failures |= run.hosts.each(lambda host: _drain(host, heads[host.name], limits, run.by, drain_s), heads).errors
    progress.phase("stopping the rest of it")
    failures |= _stop(run, workers)
    failures |= _stop(run, heads)
    return failures


def _with_role(gang: Gang, role: str) -> Gang:
    chosen = {name: tuple(m for m in members if m.role == role and m.running) for name, members in gang.items()}
    return {name: members for name, members in chosen.items() if members}


def _drain(host: Host, members: tuple[Member, ...], limits: Timeouts, by: str, drain_s: float) -> None:
    """Let the head's agent end the server, and wait until it has; the container's own stop is what insists."""
    for member in members:
        agent = agent_in(host, member.id)
        if agent.has_server:
            ask_agent(host, member.id, "drain", by=by, drain_s=drain_s)
            _until_drained(host, member.id, agent.since or 0, drain_s + limits.stop_s + RAY_STOP_S)


def _until_drained(host: Host, container: str, since: float, timeout_s: float) -> None:
    """Read the log from the agent's latest phase on until it says that the server is gone, it ends, or it is late."""
    lines, deadline = Lines(), time.monotonic() + timeout_s
    for chunk in host.engine.logs(container, follow=True, since=since, silence_s=timeout_s):
        events = (parse_event(line) for line in lines.feed(chunk) if chunk.stream == "stderr")
        if any(event is not None and event.fields.get("phase") in GONE for event in events):
            return
        if time.monotonic() > deadline:
            return


def _stop(run: Run, gang: Gang) -> Mapping[str, ClusterctlError]:
    def stop(host: Host) -> None:
        for member in gang[host.name]:
            # First, so that a run that is cut off before it has removed this leaves nothing that a boot would start.
            host.engine.set_restart_policy(member.id, "no")
            # What is still to be stopped is Ray; an agent that does not even manage that is killed.
            host.engine.stop(member.id, timeout_s=run.inventory.timeouts.stop_s + RAY_STOP_S)

    return run.hosts.each(stop, gang).errors
