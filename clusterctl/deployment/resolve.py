"""From inventory and facts to what each node will be: its address, interface, role and rank. Pure."""

from __future__ import annotations

from clusterctl.deployment.address import accelerators_per_node
from clusterctl.deployment.gpus import gpu_request
from clusterctl.deployment.rdma import devices_passed, ports_of_network
from clusterctl.deployment.way import way_of
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.records import ImageFacts
from clusterctl.inventory.model import Inventory
from clusterctl.modes.all import mode_of
from clusterctl.modes.place import Deployment, Place


def resolve(inventory: Inventory, facts: ClusterFacts) -> Deployment:
    """Decide what facts decide. Raises ValueError where something is missing, a node that was not read included.

    `up` only asks for facts without error findings, where that would be a bug; rules ask for any.
    """
    layout = mode_of(inventory).world(inventory, accelerators_per_node(inventory, facts))
    return Deployment(
        inventory,
        layout,
        {node.name: _place(inventory, node.name, facts, layout.gpus_per_node) for node in inventory.nodes},
    )


def _place(inventory: Inventory, name: str, facts: ClusterFacts, gpus: int) -> Place:
    node, way = facts.nodes.get(name), way_of(inventory, name, facts)
    if node is None or way is None or not isinstance(node.image, ImageFacts):
        raise ValueError(f"{name}: its address in the private network or its image is not known")
    return Place(
        name=name,
        role="head" if name == inventory.head_name else "worker",
        address=way.address,
        interfaces=way.sockets,
        image_id=node.image.id,
        infiniband=devices_passed(inventory.rdma, node),
        hcas=ports_of_network(inventory, name, facts).hcas if inventory.rdma != "off" else (),
        gpus=gpu_request(inventory, name, node, gpus),
    )
