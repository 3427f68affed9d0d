"""`check`: everything that can be found out before a start, and what of it would make the start fail."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from clusterctl.actions.decide import decide
from clusterctl.deployment.environment import network_environments
from clusterctl.deployment.rdma import Ports, ports_of_network
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.gather import gather
from clusterctl.facts.model_bytes import with_digests
from clusterctl.findings.finding import Finding
from clusterctl.findings.identity import Difference, differences
from clusterctl.findings.rules import check
from clusterctl.hosts.host import Hosts
from clusterctl.inventory.model import Inventory
from clusterctl.preflight.run import Asked, with_deep
from clusterctl.progress import Progress


@dataclass(frozen=True)
class Checked:
    """What `check` found."""

    facts: ClusterFacts
    findings: tuple[Finding, ...]
    differing: tuple[Difference, ...]
    """What is not the same on all nodes."""
    environments: Mapping[str, Mapping[str, str]]
    """Node → the variables that its place in the network decides."""
    ports: Mapping[str, Ports]
    """Node → its RDMA ports: those that NCCL is told to use, and the others with the reason. None with rdma: off."""


def check_cluster(
    hosts: Hosts,
    inventory: Inventory,
    asked: Asked,
    progress: Progress,
    *,
    codes: Collection[str] = (),
    all_bytes: bool = False,
) -> Checked:
    """Read the nodes, run the image on each and try the network between them; changes nothing.

    With `codes` only findings with these codes count. `all_bytes`: read every byte of the model's files.
    """
    progress.phase("reading the nodes")
    facts = gather(hosts, inventory, progress)
    inventory = decide(hosts, inventory, facts, progress).inventory
    if all_bytes:
        facts = with_digests(hosts, inventory.model.path, facts, progress)
    progress.phase("running the image on every node, and trying the network between them")
    facts = with_deep(hosts, inventory, facts, asked)
    return Checked(
        facts,
        tuple(finding for finding in check(inventory, facts) if not codes or finding.code in codes),
        differences(inventory, facts),
        network_environments(inventory, facts),
        {name: ports_of_network(inventory, name, facts) for name in facts.nodes} if inventory.rdma != "off" else {},
    )
