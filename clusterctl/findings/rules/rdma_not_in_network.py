"""Where nodes have RDMA ports that are up, one of them belongs to the private network."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.rdma import own_choice, ports_of_network, unfit
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.rdma import UNLESS_REQUIRED, severity_of_missing
from clusterctl.inventory.model import Inventory

NONE_BELONGS = Code(
    name="rdma-not-in-network",
    severity=WARNING,
    unless=UNLESS_REQUIRED,
    title="No RDMA port in the private network",
    runbook="network.md",
    seen="no RDMA port belongs to the private network: {ports}",
    why="NCCL is given none of them and uses TCP: what is not known to reach the other nodes makes the first "
    "collective hang",
    fix="set network.cidr to the network of the RDMA ports, or name the ports: container.env NCCL_IB_HCA, for example "
    "=mlx5_0:1; without RDMA: rdma: off",
    note="The ports are shown with the reason why each is left out. Not where the inventory's `env` has NCCL_IB_HCA or "
    "NCCL_NET.",
)


@rule(Section.RDMA, NONE_BELONGS)
def rdma_not_in_network(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Where nodes have RDMA ports that are up, one of them belongs to the private network.

    With `auto` only ports that NCCL could use are missed; with `required` those of any kind.
    """
    if inventory.rdma == "off":
        return
    for name in facts.nodes:
        ports = ports_of_network(inventory, name, facts)
        missed = [each for each in ports.left_out if each.port.active and unfit(each.port) is None]
        of_no_use = bool(ports.left_out) and all(unfit(each.port) for each in ports.left_out)
        if ports.used or own_choice(inventory, name) or not (missed or (of_no_use and inventory.rdma == "required")):
            continue
        shown = "; ".join(each.text for each in ports.left_out)
        yield NONE_BELONGS.found(name, severity=severity_of_missing(inventory), ports=shown)
