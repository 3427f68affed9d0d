"""Wait until the cluster serves, whether this run started it or something else did."""

from __future__ import annotations

from collections.abc import Mapping

from clusterctl.actions.follow import Followed, Start, follow
from clusterctl.actions.prepare import Prepared
from clusterctl.agent.state import AgentState
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.records import ContainerFacts
from clusterctl.lock.run import Run


def wait_until_serving(run: Run, prepared: Prepared, started: Mapping[str, str]) -> Start:
    """Follow what starts, or what is on its way: the start of another `up`, or a cluster that heals.

    `started`: node → ID of the container that this run started there. Raises StartFailedError.
    """
    if started:
        return follow(run, {name: Followed(container) for name, container in started.items()})
    container, restarts = head_container(prepared.facts, run.inventory.head_name), prepared.plan.restarts_server
    agent = container.agent if container is not None else AgentState()
    if agent.serving and not restarts:
        return Start(phase="serving")
    run.progress.phase("waiting for the new server" if restarts else "waiting for the start that is under way")
    heals = container is not None and container.restart_policy != "no"
    after = agent.server if restarts else agent.server - 1
    return follow(run, from_now_on(prepared.facts), after=after, patient=heals and not restarts)


def from_now_on(facts: ClusterFacts) -> Mapping[str, Followed]:
    """Node name → its container, to be followed from the phase on in which it is."""
    return {
        name: Followed(container.id, container.agent.since or 0.0)
        for name, node in facts.nodes.items()
        for container in (() if isinstance(node.containers, Unknown) else node.containers)
    }


def head_container(facts: ClusterFacts, head: str) -> ContainerFacts | None:
    """The head's container, if there is exactly one."""
    node = facts.nodes.get(head)
    if node is None or isinstance(node.containers, Unknown) or len(node.containers) != 1:
        return None
    return node.containers[0]
