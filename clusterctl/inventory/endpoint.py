"""The API's base URL, and the certificate that it shows."""

from __future__ import annotations

from ipaddress import IPv4Address

from clusterctl.inventory.model import Inventory


def endpoint_of(inventory: Inventory, head_address: IPv4Address) -> str:
    """Base URL of the API; a server on 0.0.0.0 is named by the head's private address."""
    host = inventory.serve.host if isinstance(inventory.serve.host, IPv4Address) else head_address
    scheme = "http" if tls_certfile(inventory) is None else "https"
    return f"{scheme}://{host}:{inventory.serve.port}"


def tls_certfile(inventory: Inventory) -> str | None:
    """Path of the API's certificate in the head's container; None when the API speaks plain http."""
    path = inventory.serve.options.get("ssl-certfile")
    return path if isinstance(path, str) else None
