"""Turn supervision by the engine's restart policy on or off."""

from __future__ import annotations

from collections.abc import Mapping

from clusterctl.agent.paths import ADOPTED_PATH
from clusterctl.hosts.engine.engine import FileInContainer
from clusterctl.hosts.host import Host
from clusterctl.lock.run import Run


def adopt(run: Run, containers: Mapping[str, str], policy: str) -> None:
    """The cluster has been seen to serve: from now on its agents heal, and the engines start what ends.

    `containers`: node name → ID, of all nodes. Raises NodesError. Doing it again is harmless; cut off between two
    nodes, the next `up` does it again (plan.py compares the policies).
    """

    def on_node(host: Host) -> None:
        host.engine.put_files(containers[host.name], [FileInContainer(ADOPTED_PATH, b"")])
        host.engine.set_restart_policy(containers[host.name], policy)

    run.hosts.each(on_node, containers).or_raise("turning supervision on")
