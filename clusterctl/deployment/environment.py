"""What each node is told about its own place in the network (failure-modes.md, "Per-node environment"). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address

from clusterctl.deployment.address import private_address
from clusterctl.deployment.rdma import chosen_ports, nccl_environment
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.inventory.model import Inventory


def network_environment(
    inventory: Inventory, node: str, address: IPv4Address, interface: str, hcas: Sequence[str]
) -> Mapping[str, str]:
    """Addresses and interfaces, which are derived and nothing else, and RDMA, where the inventory's own `env` wins."""
    own = next(each for each in inventory.nodes if each.name == node)
    asked = {**inventory.container.env, **own.env}
    rdma = nccl_environment(inventory.rdma, hcas)
    return {
        "VLLM_HOST_IP": str(address),
        # Gloo takes a plain name; NCCL takes a PREFIX unless it starts with `=` (eth1 would match eth10).
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": f"={interface}",
        **{name: asked.get(name, value) for name, value in rdma.items()},
    }


def network_environments(inventory: Inventory, facts: ClusterFacts) -> Mapping[str, Mapping[str, str]]:
    """Node → its variables, for every node whose place in the private network is known."""
    found = {}
    for name, node in facts.nodes.items():
        place = private_address(inventory, name, node)
        if place is not None:
            hcas = [port.name for port in chosen_ports(node, place.interface)]
            found[name] = network_environment(inventory, name, place.address, place.interface, hcas)
    return found
