"""Reaching the nodes and their engine. Pure; one small function a rule."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.agent.paths import container_name
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.findings.finding import Finding, Severity
from clusterctl.inventory.model import Inventory


def unreachable(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """A node that SSH does not reach."""
    for name, node in facts.unreachable.items():
        yield Finding(
            "node-unreachable",
            Severity.ERROR,
            (name,),
            node.reason,
            "every declared node holds a part of the model: without one the cluster cannot start",
            node.fix or f"ssh -v to {name} from here",
        )


def engine(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """No engine, one that this login may not use (F4, F16), or one that does not say which containers there are: «none»
    would be a plan that takes down what runs."""
    for name, node in facts.nodes.items():
        if node.engine is None:
            yield Finding(
                "engine-missing",
                Severity.ERROR,
                (name,),
                "the command `docker` is not in the PATH of an SSH login",
                "the container on this node is started through it",
                "install Docker Engine on the node (Debian: apt-get install docker.io)",
            )
        elif isinstance(node.engine, Unknown):
            yield Finding(
                "engine-unusable",
                Severity.ERROR,
                (name,),
                node.engine.reason,
                "the container on this node is started through the engine",
                "on the node: systemctl status docker; for permission: usermod -aG docker USER and log in again, "
                "or set container.sudo: true",
            )
        elif isinstance(node.containers, Unknown):
            yield Finding(
                "engine-unusable",
                Severity.ERROR,
                (name,),
                f"the engine answers, but its containers cannot be listed: {node.containers.reason}",
                "it is not known whether this cluster runs on the node, so nothing can be planned",
                "on the node: docker ps --all; a container that hangs: systemctl restart containerd docker",
            )


def strangers_name(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Two containers of this cluster on one node: only one can be ours."""
    expected = container_name(inventory.cluster)
    for name, node in facts.nodes.items():
        if isinstance(node.containers, Unknown):
            continue
        extra = [container.name for container in node.containers if container.name != expected]
        if extra:
            yield Finding(
                "container-extra",
                Severity.ERROR,
                (name,),
                f"containers with this cluster's label but another name: {', '.join(extra)}",
                "they hold the cluster's ports or accelerators",
                f"clusterctl down (removes everything with the label clusterctl.cluster={inventory.cluster})",
            )
