"""Which RDMA ports NCCL shall use on a node, and the environment that says so. Pure.

Without NCCL_IB_HCA, NCCL takes every ACTIVE port, InfiniBand beside Ethernet, storage and management beside the fabric.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from clusterctl.facts.cluster import NodeFacts
from clusterctl.facts.rdma import ETHERNET, INFINIBAND, RdmaPort, hca_of
from clusterctl.inventory.model import RdmaMode


def devices_passed(mode: RdmaMode, node: NodeFacts) -> bool:
    """Whether /dev/infiniband is passed to the container. An empty one is none: the engine refuses to pass a directory
    without devices."""
    return mode != "off" and isinstance(node.infiniband, tuple) and bool(node.infiniband)


def chosen_ports(node: NodeFacts, interface: str) -> tuple[RdmaPort, ...]:
    """The ACTIVE ports of one link layer that belong to the private network.

    InfiniBand: the fastest ports, all of them, since a fabric connects every port with every other one; slower ones
    are for storage or management. Ethernet (RoCE): the port under the interface of network.cidr, the one that is known
    to reach the other nodes; where no port belongs to it, all.
    """
    active = [port for port in node.rdma if port.active] if isinstance(node.rdma, tuple) else []
    fabric = [port for port in active if port.link_layer == INFINIBAND]
    if fabric:
        fastest = max(gbit_per_s(port) for port in fabric)
        return tuple(port for port in fabric if gbit_per_s(port) == fastest)
    ethernet = [port for port in active if port.link_layer == ETHERNET]
    own = hca_of(ethernet, interface)
    return (own,) if own is not None else tuple(ethernet)


def gbit_per_s(port: RdmaPort) -> float:
    """The port's rate in Gbit/s, from `400 Gb/sec (4X NDR)`; 0 where the kernel says none."""
    found = re.match(r"[\d.]+", port.rate)
    return float(found.group()) if found else 0.0


def nccl_environment(mode: RdmaMode, hcas: Sequence[str]) -> Mapping[str, str]:
    """NCCL's variables for RDMA. Defaults: what the inventory's own `env` says wins, for instance another NCCL_NET.

    NCCL_IB_GID_INDEX stays unset: from 2.21 on NCCL finds the right one by itself, and a fixed one is a frequent fault
    (F32).
    """
    if mode == "off":
        return {"NCCL_IB_DISABLE": "1"}
    # `=`: exactly these, as a name alone is a prefix (mlx5_1 would match mlx5_10).
    chosen = {"NCCL_IB_HCA": f"={','.join(hcas)}"} if hcas else {}
    # Without NCCL_NET, NCCL falls back to TCP and says so only at INFO (F23).
    return {**chosen, **({"NCCL_NET": "IB"} if mode == "required" else {})}
