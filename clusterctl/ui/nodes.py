"""How each node is reached, as text for a person and as values for machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clusterctl.hosts.ssh.route import Route
from clusterctl.hosts.ssh.settings import Settings
from clusterctl.inventory.model import Node

COLUMNS = ("NODE", "HOST", "LOGIN", "THROUGH", "KEYS", "KNOWN AS", "KNOWN HOSTS")


def to_json(nodes: Sequence[Node], routes: Mapping[str, Route]) -> dict[str, Any]:
    """For machines, in inventory order. A node that is this machine has no route: its values are null."""
    return {"nodes": [_values(node, routes.get(node.name)) for node in nodes]}


def _values(node: Node, route: Route | None) -> dict[str, Any]:
    said = route.hops[0] if route is not None else None
    return {
        "name": node.name,
        "host": node.host,
        "hostname": said.hostname if said else None,
        "port": said.port if said else None,
        "user": said.user if said else None,
        "identity_files": [str(path) for path in said.identity_files] if said else [],
        "jump": said.jump if said else None,
        "proxy_command": said.proxy_command if said else None,
        "host_key_alias": said.host_key_alias if said else None,
        "known_hosts": [str(path) for path in said.known_hosts] if said else [],
    }


def text(nodes: Sequence[Node], routes: Mapping[str, Route]) -> str:
    """For a person. Of the files, those that are there are shown."""
    rows = [COLUMNS, *(_row(node, routes.get(node.name)) for node in nodes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _row(node: Node, route: Route | None) -> tuple[str, ...]:
    if route is None:
        return (node.name, node.host, "this machine, without SSH", "", "", "", "")
    said = route.hops[0]
    keys = [str(path) for path in said.identity_files if path.exists()]
    agent = ["agent"] if said.agent is not None and not said.identities_only else []
    known = [str(path) for path in (*said.known_hosts, *said.system_known_hosts) if path.exists()]
    return (
        node.name,
        node.host,
        _login(said),
        _through(route),
        ", ".join([*keys, *agent]) or "none",
        said.known_as,
        ", ".join(known) or "none",
    )


def _through(route: Route) -> str:
    """The machines on the way, the first one first."""
    way = [_login(hop) for hop in reversed(route.hops[1:])]
    first = route.hops[-1].proxy_command
    return ", ".join([f"ProxyCommand {first}"] * bool(first) + way) or "-"


def _login(hop: Settings) -> str:
    host = f"[{hop.hostname}]" if ":" in hop.hostname else hop.hostname
    return f"{hop.user}@{host}:{hop.port}"
