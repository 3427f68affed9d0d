"""`clusterctl logs`."""

from __future__ import annotations

import click

from clusterctl.cli.candidates import node_names
from clusterctl.cli.common import Options, echo


@click.command()
@click.option("--node", "nodes", multiple=True, shell_complete=node_names, help="Only this node (repeatable).")
@click.option("-f", "--follow", is_flag=True, help="Keep printing new lines until the containers end for good.")
@click.option("--tail", type=click.IntRange(min=0), help="Only this many last lines of each node.")
@click.pass_obj
def logs(options: Options, nodes: tuple[str, ...], follow: bool, tail: int | None) -> None:
    """Print the containers' logs, each line prefixed with its node's name."""
    from clusterctl.actions.logs import chosen_nodes, show_logs
    from clusterctl.agent.paths import container_name

    inventory = options.inventory()
    chosen = chosen_nodes(inventory, nodes)
    with options.hosts(inventory, chosen) as hosts:
        show_logs(hosts, container_name(inventory.cluster), chosen, follow=follow, tail=tail, write=echo)
