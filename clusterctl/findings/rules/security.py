"""What others may reach or read. Pure; one small function a rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address

from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.records import InterfaceAddress
from clusterctl.findings.finding import Finding, Severity
from clusterctl.inventory.model import Inventory
from clusterctl.secrets.names import looks_secret


def public_addresses(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """What listens on all interfaces is reachable from everywhere that a public address is (F67)."""
    for name, node in facts.nodes.items():
        if public := _public(node):
            shown = ", ".join(f"{item.address} on {item.interface}" for item in public)
            yield Finding(
                "address-public",
                Severity.WARNING,
                (name,),
                f"the node has a public address: {shown}",
                "PyTorch's TCPStore and others listen on all interfaces, and what reaches them may run code (F66, F67)",
                "clusterctl firewall prints rules for the node; waive address-public when a firewall is in place",
            )


def public_api(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """An API that strangers reach: what answers them without the key, or everything when there is none (F69)."""
    node = facts.nodes.get(inventory.head_name)
    listens = inventory.serve.host
    if node is None or listens == "private":
        return
    open_at = [item for item in _public(node) if listens in ("any", item.address)]
    if open_at:
        without_key = inventory.serve.api_key == "off"
        key = "there is no API key" if without_key else "who has no key reads /metrics, and may try keys"
        yield Finding(
            "api-public",
            Severity.WARNING,
            (inventory.head_name,),
            f"serve.host: {listens} opens the API on {', '.join(str(item.address) for item in open_at)}; {key}",
            "everybody can use the model"
            if without_key
            else "the key is all that is between strangers and the model; "
            "without ssl-certfile it goes over the network in the clear",
            "set serve.host: private and put a reverse proxy before it, or limit who reaches the port: clusterctl "
            "firewall --clients CIDR",
        )


def secrets_in_inventory(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """What `docker inspect` and the server's configuration show is no secret any more."""
    asked: list[tuple[str, Iterable[str]]] = [
        ("container.env", inventory.container.env),
        ("serve.options", inventory.serve.options),
        *((f"nodes[{index}].env", node.env) for index, node in enumerate(inventory.nodes)),
    ]
    if found := [f"{place}.{name}" for place, names in asked for name in names if looks_secret(name)]:
        yield Finding(
            "secret-in-inventory",
            Severity.WARNING,
            (),
            f"by its name this holds a secret: {', '.join(found)}",
            "who may use the container engine reads it (docker inspect, files in the container), and who reads the "
            "inventory",
            "leave it out, or put it into a 0600 file and mount that with container.volumes; waive secret-in-inventory "
            "when it is no secret",
        )


def _public(node: NodeFacts) -> tuple[InterfaceAddress, ...]:
    """The node's addresses that are routed on the Internet. Behind another's NAT none is seen here."""
    return (
        tuple(item for item in node.addresses if _is_public(item.address)) if isinstance(node.addresses, tuple) else ()
    )


def _is_public(address: IPv4Address) -> bool:
    return address.is_global and not address.is_multicast
