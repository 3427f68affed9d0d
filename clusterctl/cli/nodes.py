"""`clusterctl nodes`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from clusterctl.cli.common import Options, emit, json_option

if TYPE_CHECKING:
    from clusterctl.hosts.ssh.openssh import Hop
    from clusterctl.inventory.model import Node


@click.command()
@json_option
@click.pass_obj
def nodes(options: Options, *, as_json: bool) -> None:
    """Show how each node is reached, as ssh_config and the inventory together say. Contacts no node.

    What of ssh_config has no effect is said on stderr.

    Exit codes: 0, or 2 when OpenSSH refuses the configuration, with its file and line.
    """
    from concurrent.futures import ThreadPoolExecutor

    from clusterctl.hosts.ssh.openssh import route_to
    from clusterctl.ui.nodes import table

    inventory = options.inventory()
    over_ssh = [node for node in inventory.nodes if not node.is_this_machine]
    with ThreadPoolExecutor() as pool:  # `ssh -G` for each
        routes = dict(
            zip((n.name for n in over_ssh), pool.map(lambda n: route_to(n, inventory.ssh), over_ssh), strict=True)
        )
    rows = [_row(node, routes.get(node.name)) for node in inventory.nodes]
    for remark in dict.fromkeys(remark for route in routes.values() for hop in route.way for remark in hop.remarks):
        click.echo(f"warning: ssh_config: {remark}", err=True)
    emit({"nodes": rows} if as_json else table(rows))


def _row(node: Node, route: Hop | None) -> dict[str, Any]:
    """A node's line; one that is this machine has nothing but its name and host."""
    return {
        "name": node.name,
        "host": node.host,
        "hostname": route and route.hostname,
        "port": route and route.port,
        "user": route and route.user,
        "identity_files": [str(file) for file in route.identity_files] if route else [],
        "jump": route and route.proxy_jump,
        "proxy_command": route and route.proxy_command,
        "host_key_alias": route and route.host_key_alias,
        "known_hosts": [str(file) for file in route.known_hosts] if route else [],
    }
