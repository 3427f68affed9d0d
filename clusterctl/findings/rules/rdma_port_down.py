"""Beside ports that are up, none that matters is down: the private network's, or one that is up on another node."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.way import way_of, with_lowers
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.rdma import RdmaPort
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.rdma import rdma_ports
from clusterctl.inventory.model import Inventory

DOWN = Code(
    name="rdma-port-down",
    severity=WARNING,
    title="An RDMA port is down",
    runbook="rdma-devices.md",
    seen="{ports}",
    why="NCCL leaves out a port that is not ACTIVE: it uses TCP, or fewer rails than on the other nodes",
    fix="on the node: ibstat, or rdma link; check cable and switch port; InfiniBand in state INIT waits for a subnet "
    "manager (systemctl status opensm)",
    note="Shown as `DEVICE:PORT (INTERFACE) is STATE, PHYSICAL STATE`; ports that belong to the private network or "
    "are up on another node, beside others that are up on this one.",
)


@rule(Section.RDMA_DEVICES, DOWN)
def rdma_port_down(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Beside ports that are up, none that matters is down: the private network's, or one that is up on another node.

    A port that is down on every node is no finding: cards with an unused second port are common.
    """
    found = rdma_ports(inventory, facts)
    up_somewhere = {port.name for ports in found.values() for port in ports if port.active}
    for name, ports in found.items():
        way = way_of(inventory, name, facts)
        own = with_lowers(facts.nodes[name], way.interfaces) if way is not None else frozenset[str]()
        # Of a bond's members, one that is up is enough for the network; another node's shows whether both are meant.
        carried = any(port.active and not own.isdisjoint(port.interfaces) for port in ports)
        down = [
            port
            for port in ports
            if not port.active and (port.name in up_somewhere or (not carried and not own.isdisjoint(port.interfaces)))
        ]
        if down and any(port.active for port in ports):
            rows = (f"{p.name} ({_interfaces(p)}) is {p.state}, {p.phys_state}" for p in down)
            yield DOWN.found(name, ports="; ".join(rows))


def _interfaces(port: RdmaPort) -> str:
    return ", ".join(port.interfaces) or "no interface"
