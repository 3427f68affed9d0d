"""Short-lived containers that ask instead of serve: what they are started with. Pure.

They carry the cluster's label, so that `down` removes one that was left, and the role `probe`, by which nobody takes
one for a part of the cluster. The engine removes them when they end, also when nobody is there any more to do so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterctl.agent.labels import LABEL_CLUSTER, LABEL_NODE, LABEL_ROLE, ROLE_PROBE
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.hosts.host import Host, Hosts


def remove_probes(hosts: Hosts, facts: ClusterFacts) -> None:
    """Remove what killed runs of clusterctl left of their probes; what cannot be removed holds nothing, and waits."""
    left = {name: node.leftovers for name, node in facts.nodes.items() if node.leftovers}

    def remove_left(host: Host) -> None:
        for container in left[host.name]:
            host.engine.remove(container, force=False)  # another run may have started it meanwhile

    hosts.each(remove_left, left)


PEERS_PATH = "/opt/clusterctl/peers.py"


PEERS_CONFIG_PATH = "/etc/clusterctl/peers.json"


PEERS_STEP_PATH = "/etc/clusterctl/step.json"


def probe_name(cluster: str, kind: str, run: str) -> str:
    """Name of a probe's container, the same on every node, and no other run's: two that look at the same cluster at
    once do not get in each other's way. What is left of one is found by its labels."""
    return f"{cluster}-probe-{kind}-{run}"


def probe_labels(cluster: str, node: str) -> Mapping[str, str]:
    """What a probe's container is found by."""
    return {LABEL_CLUSTER: cluster, LABEL_ROLE: ROLE_PROBE, LABEL_NODE: node}


def peers_container(cluster: str, node: str, image_id: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The API's two bodies for agent/peers.py: host network, and nothing else of the node."""
    config = {
        "image": image_id,
        "entrypoint": ["python3", PEERS_PATH],
        "command": [],
        "labels": dict(probe_labels(cluster, node)),
    }
    host_config = {
        "network_mode": "host",  # the interfaces, routes and firewall that Ray and NCCL will meet
        "auto_remove": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "log_config": {"Type": "json-file", "Config": {}},  # read back as a stream, whatever the engine's default is
    }
    return config, host_config
