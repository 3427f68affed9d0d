"""RDMA as the inventory asks for it: an ACTIVE port and its device nodes on every node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.rdma import RdmaPort
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.rdma import UNLESS_REQUIRED, severity_of_missing, usable
from clusterctl.inventory.model import Inventory

STATE = "on the node: cat /sys/class/infiniband/*/ports/*/state (4: ACTIVE is needed)"

NOT_ACTIVE = Code(
    name="rdma-no-active-port",
    severity=WARNING,
    unless=UNLESS_REQUIRED,
    title="No ACTIVE port",
    runbook="network.md",
    seen="no RDMA port is ACTIVE ({ports})",
    why="NCCL leaves out ports that are not ACTIVE, and uses TCP when none is left",
    fix=f"{STATE}: cable, switch port, and for InfiniBand a subnet manager; or rdma: off in the inventory",
    note="The ports are shown with their states.",
)
NO_DEVICE_NODES = Code(
    name="rdma-device-nodes-missing",
    severity=WARNING,
    unless=UNLESS_REQUIRED,
    title="No /dev/infiniband",
    runbook="network.md",
    seen="{ports} is ACTIVE, but /dev/infiniband is missing or empty",
    why='the container is given /dev/infiniband; without it: "NET/IB : No device found"',
    fix="on the node: modprobe ib_uverbs rdma_ucm; ls -l /dev/infiniband (package rdma-core)",
)
UNKNOWN = Code(
    name="rdma-ports-unknown",
    severity=WARNING,
    title="RDMA cannot be read",
    runbook="network.md",
    seen="could not be read: {place}: {reason}",
    why="whether NCCL will use RDMA is not known; without an ACTIVE port it uses TCP",
    fix=f"{STATE}; clusterctl check --nccl shows what NCCL uses",
)


@rule(Section.RDMA, NOT_ACTIVE, NO_DEVICE_NODES, UNKNOWN)
def rdma_ports(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """An ACTIVE port and its device nodes on every node; nothing when RDMA is off.

    With `required` what is missing is an error; with `auto` NCCL would use TCP, and a node without RDMA is fine.
    """
    if inventory.rdma == "off":
        return
    severity = severity_of_missing(inventory)
    for name, node in facts.nodes.items():
        if isinstance(node.rdma, Unknown):
            yield UNKNOWN.found(name, place="/sys/class/infiniband", reason=node.rdma.reason)
        elif not any(port.active for port in usable(node)):
            # Ports that are all of no use are left out with their reasons: rdma_not_in_network.py.
            if usable(node) or (inventory.rdma == "required" and not node.rdma):
                yield NOT_ACTIVE.found(name, severity=severity, ports=_states(usable(node)))
        elif isinstance(node.infiniband, Unknown):
            yield UNKNOWN.found(name, place="/dev/infiniband", reason=node.infiniband.reason)
        elif not node.infiniband:
            active = ", ".join(port.name for port in usable(node) if port.active)
            yield NO_DEVICE_NODES.found(name, severity=severity, ports=active)


def _states(ports: Sequence[RdmaPort]) -> str:
    return ", ".join(f"{port.name} {port.state}" for port in ports) or "the node has no RDMA device"
