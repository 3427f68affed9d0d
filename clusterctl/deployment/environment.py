"""What each node is told about its own place in the network (failure-modes.md, "Per-node environment"). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address

from clusterctl.deployment.rdma import nccl_environment, ports_of_network
from clusterctl.deployment.way import ways
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.inventory.model import Inventory


def network_environment(
    inventory: Inventory, node: str, address: IPv4Address, interfaces: Sequence[str], hcas: Sequence[str]
) -> Mapping[str, str]:
    """Addresses and interfaces, which are derived and nothing else, and RDMA, where the inventory's own `env` wins.

    NCCL is told all interfaces. Gloo is told one: with several it wants as many on every node, and takes them in turn.
    """
    own = next(each for each in inventory.nodes if each.name == node)
    asked = {**inventory.container.env, **own.env}
    rdma = nccl_environment(inventory.rdma, hcas)
    return {
        "VLLM_HOST_IP": str(address),
        # Gloo takes a plain name; NCCL takes a PREFIX unless it starts with `=` (eth1 would match eth10).
        "GLOO_SOCKET_IFNAME": interfaces[0],
        "NCCL_SOCKET_IFNAME": f"={','.join(interfaces)}",
        **{name: asked.get(name, value) for name, value in rdma.items()},
    }


def network_environments(inventory: Inventory, facts: ClusterFacts) -> Mapping[str, Mapping[str, str]]:
    """Node → its variables, for every node whose place in the private network is known."""
    return {
        name: network_environment(
            inventory, name, way.address, way.sockets, ports_of_network(inventory, name, facts).hcas
        )
        for name, way in ways(inventory, facts).items()
    }
