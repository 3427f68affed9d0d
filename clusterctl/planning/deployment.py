"""From inventory and facts to what each node will be: its address, interface, role and rank. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Literal

from clusterctl.facts.model import ClusterFacts, ImageFacts, InterfaceAddress, NodeFacts, Unknown
from clusterctl.inventory.layout import Layout, resolve_layout
from clusterctl.inventory.model import Inventory
from clusterctl.planning.rdma import chosen_ports, devices_passed


@dataclass(frozen=True)
class Place:
    """One node's part in the gang."""

    name: str
    role: Literal["head", "worker"]
    address: IPv4Address
    interface: str
    image_id: str
    infiniband: bool
    """Whether RDMA devices are passed to the container."""
    hcas: tuple[str, ...] = ()
    """RDMA ports that NCCL shall use, as mlx5_0:1; empty without RDMA."""


@dataclass(frozen=True)
class Deployment:
    """What `up` wants to exist, with everything that facts decide already decided."""

    inventory: Inventory
    layout: Layout
    places: Mapping[str, Place]

    @property
    def head(self) -> Place:
        """The head's place."""
        return self.places[self.inventory.head_name]

    @property
    def endpoint(self) -> str:
        """Base URL that a client on the private network uses."""
        return endpoint_of(self.inventory, self.head.address)


def endpoint_of(inventory: Inventory, head_address: IPv4Address) -> str:
    """Base URL of the API; a server on 0.0.0.0 is named by the head's private address."""
    host = inventory.serve.host if isinstance(inventory.serve.host, IPv4Address) else head_address
    scheme = "http" if tls_certfile(inventory) is None else "https"
    return f"{scheme}://{host}:{inventory.serve.port}"


def tls_certfile(inventory: Inventory) -> str | None:
    """Path of the API's certificate in the head's container; None when the API speaks plain http."""
    path = inventory.serve.options.get("ssl-certfile")
    return path if isinstance(path, str) else None


def private_address(inventory: Inventory, name: str, facts: NodeFacts) -> InterfaceAddress | None:
    """The node's address in the private network: the declared one, or the only one inside the CIDR; else None."""
    if isinstance(facts.addresses, Unknown):
        return None
    declared = next(node.address for node in inventory.nodes if node.name == name)
    inside = [item for item in facts.addresses if item.address in inventory.network.cidr]
    wanted = [item for item in inside if declared in (None, item.address)]
    return wanted[0] if len({item.address for item in wanted}) == 1 else None


def accelerators_per_node(inventory: Inventory, facts: ClusterFacts) -> int:
    """Accelerators used on each node: declared, or what the nodes have."""
    declared = inventory.accelerator.per_node
    if isinstance(declared, int):
        return declared
    counts = [len(node.gpus) for node in facts.nodes.values() if isinstance(node.gpus, tuple)]
    return min(counts, default=0)


def resolve(inventory: Inventory, facts: ClusterFacts) -> Deployment:
    """Decide what facts decide. Only for facts without error findings: anything missing is a bug (ValueError)."""
    serve = inventory.serve
    layout = resolve_layout(
        len(inventory.nodes), accelerators_per_node(inventory, facts), serve.tensor_parallel, serve.pipeline_parallel
    )
    return Deployment(
        inventory, layout, {node.name: _place(inventory, node.name, facts.nodes[node.name]) for node in inventory.nodes}
    )


def _place(inventory: Inventory, name: str, facts: NodeFacts) -> Place:
    found = private_address(inventory, name, facts)
    if found is None or not isinstance(facts.image, ImageFacts):
        raise ValueError(f"{name}: resolve() needs facts that check() passed")
    return Place(
        name=name,
        role="head" if name == inventory.head_name else "worker",
        address=found.address,
        interface=found.interface,
        image_id=facts.image.id,
        infiniband=devices_passed(inventory.rdma, facts),
        hcas=tuple(port.name for port in chosen_ports(facts, found.interface)) if inventory.rdma != "off" else (),
    )
