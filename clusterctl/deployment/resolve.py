"""From inventory and facts to what each node will be: its address, interface, role and rank. Pure."""

from __future__ import annotations

from clusterctl.deployment.address import accelerators_per_node, private_address
from clusterctl.deployment.gpus import gpu_request
from clusterctl.deployment.rdma import chosen_ports, devices_passed
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
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
        {
            node.name: _place(inventory, node.name, facts.nodes.get(node.name), layout.gpus_per_node)
            for node in inventory.nodes
        },
    )


def _place(inventory: Inventory, name: str, facts: NodeFacts | None, gpus: int) -> Place:
    found = None if facts is None else private_address(inventory, name, facts)
    if facts is None or found is None or not isinstance(facts.image, ImageFacts):
        raise ValueError(f"{name}: its address in the private network or its image is not known")
    return Place(
        name=name,
        role="head" if name == inventory.head_name else "worker",
        address=found.address,
        interface=found.interface,
        image_id=facts.image.id,
        infiniband=devices_passed(inventory.rdma, facts),
        hcas=tuple(port.name for port in chosen_ports(facts, found.interface)) if inventory.rdma != "off" else (),
        gpus=gpu_request(inventory, name, facts, gpus),
    )
