"""The node's name resolves to an address that others could use."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.kernel_net import LOOPBACK
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

IS_LOOPBACK = Code(
    name="hostname-loopback",
    severity=WARNING,
    title="The host name is loopback",
    runbook="machine.md",
    seen="the host name {name} resolves to {addresses} on the node",
    why="Gloo binds to what the name resolves to; clusterctl names the interface (GLOO_SOCKET_IFNAME) so that it does "
    "not, but whatever else asks for the node's own address gets one that no other node can reach",
    fix="in /etc/hosts on the node: its address in {cidr} with its name, not 127.0.x.x",
    note="The addresses are in 127.0.0.0/8 (Debian and Ubuntu install it so), or it resolves to nothing.",
)


@rule(Section.MACHINE, IS_LOOPBACK)
def host_name(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The node's name resolves to an address that others could use."""
    if inventory.cidr is None:
        return  # nobody else asks for a single node's address
    for name, node in facts.nodes.items():
        resolved = node.system.own_addresses
        if isinstance(resolved, Unknown) or (resolved and not all(address in LOOPBACK for address in resolved)):
            continue
        addresses = ", ".join(str(address) for address in resolved or ()) or "nothing"
        yield IS_LOOPBACK.found(name, name=node.hostname, addresses=addresses, cidr=inventory.cidr)
