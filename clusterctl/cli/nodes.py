"""`clusterctl nodes`."""

from __future__ import annotations

import click

from clusterctl.cli.common import Options, emit, json_option


@click.command()
@json_option
@click.pass_obj
def nodes(options: Options, as_json: bool) -> None:
    """Show how each node is reached: what the inventory and ssh_config together say. Contacts no node.

    Where this machine has OpenSSH's client, that is what `ssh -G` says of each node.

    Exit codes: 0, and 2 for an ssh_config that OpenSSH refuses.
    """
    from clusterctl.ui import nodes as shown

    inventory = options.inventory()
    routes = options.hosts(inventory).routes
    emit(shown.to_json(inventory.nodes, routes) if as_json else shown.text(inventory.nodes, routes))
