"""Wait until the cluster serves, whether this run started it or something else did."""

from __future__ import annotations

from collections.abc import Mapping

from clusterctl.actions.follow import Followed, Start, follow
from clusterctl.actions.prepare import Prepared
from clusterctl.agent.state import AgentState
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.records import ContainerFacts
from clusterctl.hosts.host import Hosts
from clusterctl.lock.cluster import ClusterLock
from clusterctl.planning.plan import Plan
from clusterctl.progress import Progress


def wait_until_serving(
    hosts: Hosts, prepared: Prepared, started: Mapping[str, str], progress: Progress, lock: ClusterLock
) -> Start:
    """Follow what starts, or what is on its way: the start of another `up`, or a cluster that heals.

    Raises StartFailedError.
    """
    head, limits = hosts.inventory.head_name, hosts.inventory.timeouts
    if started:
        new = {name: Followed(container) for name, container in started.items()}
        return follow(hosts, new, head, limits, progress, lost=lock.lost)
    container, restarts = head_container(prepared.facts, head), restarts_server(prepared.plan)
    phase, number = _agent_says(container)
    if phase == "serving" and not restarts:
        return Start(phase="serving")
    progress.phase("waiting for the new server" if restarts else "waiting for what is on its way")
    heals = container is not None and container.restart_policy != "no"
    after = number if restarts else number - 1
    running = from_now_on(prepared.facts)
    patient = heals and not restarts
    return follow(hosts, running, head, limits, progress, lost=lock.lost, after=after, patient=patient)


def from_now_on(facts: ClusterFacts) -> Mapping[str, Followed]:
    """Node name → its container, to be followed from the phase on in which it is."""
    return {
        name: Followed(container.id, container.agent.since or 0)
        for name, node in facts.nodes.items()
        for container in (() if isinstance(node.containers, Unknown) else node.containers)
    }


def restarts_server(plan: Plan) -> bool:
    """Whether the plan is to give the server other options and leave the gang as it is."""
    return any(node.action == "restart-server" for node in plan.nodes)


def _agent_says(container: ContainerFacts | None) -> tuple[str | None, int]:
    """The agent's phase, and the number of its latest server."""
    agent = container.agent if container is not None else AgentState()
    return agent.phase, agent.server


def head_container(facts: ClusterFacts, head: str) -> ContainerFacts | None:
    """The head's container, if there is exactly one."""
    node = facts.nodes.get(head)
    if node is None or isinstance(node.containers, Unknown) or len(node.containers) != 1:
        return None
    return node.containers[0]
