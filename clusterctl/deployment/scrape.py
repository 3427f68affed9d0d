"""What Prometheus is to ask: the agents, and the server's own metrics, as targets of its file_sd. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from clusterctl.deployment.firewall import Address
from clusterctl.inventory.endpoint import endpoint_of
from clusterctl.inventory.model import Inventory

PATH = "/metrics"


def targets(inventory: Inventory, places: Mapping[str, Address]) -> list[dict[str, Any]]:
    """Groups of file_sd: one for each node's agent, where metrics_port is set, and one for vLLM."""
    return [*_agents(inventory, places), _server(inventory, places)]


def _agents(inventory: Inventory, places: Mapping[str, Address]) -> Iterator[dict[str, Any]]:
    if inventory.metrics_port is not None:
        for name, place in places.items():
            yield _group(inventory, name, f"{place.address}:{inventory.metrics_port}", "http", "clusterctl")


def _server(inventory: Inventory, places: Mapping[str, Address]) -> dict[str, Any]:
    url = urlsplit(endpoint_of(inventory, places[inventory.head_name].address))
    return _group(inventory, inventory.head_name, url.netloc, url.scheme, "vllm")


def _group(inventory: Inventory, node: str, target: str, scheme: str, exporter: str) -> dict[str, Any]:
    labels = {
        "cluster": inventory.cluster,
        "node": node,
        "role": "head" if node == inventory.head_name else "worker",
        "exporter": exporter,
        "__scheme__": scheme,
        "__metrics_path__": PATH,
    }
    return {"targets": [target], "labels": labels}
