"""RDMA between the nodes, as the inventory's `rdma` wants it. Pure; one small function a rule.

What is odd about the devices beside those of other nodes is in rdma_devices.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from clusterctl.deployment.address import private_address
from clusterctl.deployment.rdma import chosen_ports
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.rdma import RdmaPort
from clusterctl.findings.finding import Finding, Severity
from clusterctl.findings.rules.common import minority
from clusterctl.inventory.model import Inventory

STATE = "on the node: cat /sys/class/infiniband/*/ports/*/state (4: ACTIVE is needed)"


def rdma(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """An ACTIVE port and its device nodes on every node, all of one link layer; nothing when RDMA is off.

    With `required` what is missing is an error; with `auto` NCCL would take TCP, and a node without RDMA is fine.
    """
    if inventory.rdma == "off":
        return
    required = inventory.rdma == "required"
    severity = Severity.ERROR if required else Severity.WARNING
    for name, node in facts.nodes.items():
        if isinstance(node.rdma, Unknown):
            yield _unread(name, f"/sys/class/infiniband: {node.rdma.reason}")
        elif not any(port.active for port in node.rdma or ()):
            if node.rdma or required:
                yield _inactive(name, node.rdma or (), severity)
        elif isinstance(node.infiniband, Unknown):
            yield _unread(name, f"/dev/infiniband: {node.infiniband.reason}")
        elif not node.infiniband:
            yield _without_device_nodes(name, node.rdma or (), severity)
    yield from _link_layers(inventory, facts, severity)


def _unread(name: str, what: str) -> Finding:
    return Finding(
        "rdma-ports-unknown",
        Severity.WARNING,
        (name,),
        f"could not be read: {what}",
        "whether NCCL will use RDMA is not known; without an ACTIVE port it takes TCP (F23, F29)",
        f"{STATE}; clusterctl check --nccl shows what NCCL takes",
    )


def _inactive(name: str, ports: Sequence[RdmaPort], severity: Severity) -> Finding:
    shown = ", ".join(f"{port.name} {port.state}" for port in ports) or "the node has no RDMA device"
    return Finding(
        "rdma-no-active-port",
        severity,
        (name,),
        f"no RDMA port is ACTIVE ({shown})",
        "NCCL leaves out ports that are not ACTIVE, and talks over TCP when none is left (F23, F29)",
        f"{STATE}: cable, switch port, and for InfiniBand a subnet manager; or rdma: off in the inventory",
    )


def _without_device_nodes(name: str, ports: Sequence[RdmaPort], severity: Severity) -> Finding:
    active = ", ".join(port.name for port in ports if port.active)
    return Finding(
        "rdma-device-nodes-missing",
        severity,
        (name,),
        f"{active} is ACTIVE, but /dev/infiniband is not there or empty",
        "the container is given /dev/infiniband; without it: «NET/IB : No device found» (F23)",
        "on the node: modprobe ib_uverbs rdma_ucm; ls -l /dev/infiniband (package rdma-core)",
    )


def _link_layers(inventory: Inventory, facts: ClusterFacts, severity: Severity) -> Iterator[Finding]:
    """The ports that NCCL would use are of one kind: InfiniBand and Ethernet cannot talk to each other (F29)."""
    by_layer: dict[str, list[str]] = defaultdict(list)
    for name, node in facts.nodes.items():
        if layer := _layer(inventory, name, node):
            by_layer[layer].append(name)
    if len(by_layer) > 1:
        yield Finding(
            "rdma-link-layers-differ",
            severity,
            minority(by_layer),
            "the RDMA ports that NCCL would use: "
            + "; ".join(f"{layer} on {', '.join(names)}" for layer, names in by_layer.items()),
            "an InfiniBand port and an Ethernet port cannot talk to each other: the first collective hangs (F29)",
            "bring up the same kind of port on every node, or name the ports yourself: container.env NCCL_IB_HCA",
        )


def _layer(inventory: Inventory, name: str, node: NodeFacts) -> str | None:
    place = private_address(inventory, name, node)
    ports = chosen_ports(node, place.interface) if place is not None else ()
    return ports[0].link_layer if ports else None
