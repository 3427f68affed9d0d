"""`clusterctl shell`."""

from __future__ import annotations

import sys

import click

from clusterctl.cli.candidates import node_names
from clusterctl.cli.common import Options
from clusterctl.errors import UsageError


@click.command()
@click.option(
    "--host", "on_host", is_flag=True, help="Open it on the node itself, over SSH, not in the cluster's container."
)
@click.argument("node", shell_complete=node_names)
@click.pass_obj
def shell(options: Options, node: str, *, on_host: bool) -> None:
    """Open a shell in the cluster's container on a node. The exit code is the shell's."""
    from clusterctl.actions.exec import open_shell
    from clusterctl.actions.logs import chosen_nodes
    from clusterctl.ui.terminal import RawTerminal

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("a shell needs a terminal", hint=f"for a script: clusterctl exec {node} -- sh -c '…'")
    inventory = options.inventory()
    (name,) = chosen_nodes(inventory, (node,))
    with options.hosts(inventory, (name,)) as hosts:
        host = hosts.one(name)
        with RawTerminal() as terminal:
            code = open_shell(host, inventory.cluster, terminal, on_host=on_host)
    sys.exit(code)
