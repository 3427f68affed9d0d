"""`clusterctl history`."""

from __future__ import annotations

import sys

import click

from clusterctl.cli.common import Options, emit, json_option
from clusterctl.errors import ExitCode, UsageError


@click.command()
@json_option
@click.option("--node", "nodes", multiple=True, help="Only this node (repeatable).")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Show at most this many, the latest."
)
@click.option("--forget", is_flag=True, help="Delete the history from the nodes (`down` keeps it).")
@click.pass_obj
def history(options: Options, *, as_json: bool, nodes: tuple[str, ...], limit: int, forget: bool) -> None:
    """Show who changed the cluster and when, how it ended, and what the nodes restarted by themselves.

    Each node keeps the last 1000 records in its login's ~/.local/state/clusterctl. Exit code 1: no node could be read.
    """
    from clusterctl.actions.logs import chosen_nodes
    from clusterctl.lock.history import forget_history, read_history
    from clusterctl.ui import history as history_text

    if forget and as_json:
        raise UsageError("--forget prints nothing, so --json does not go with it")
    inventory = options.inventory()
    chosen = chosen_nodes(inventory, nodes)
    with options.hosts(inventory) as hosts:
        if forget:
            forget_history(hosts, inventory.cluster, chosen)
            return
        found = read_history(hosts, inventory.cluster, chosen, limit=limit)
    emit(found.to_json() if as_json else history_text.text(found))
    if len(found.unread) == len(chosen):
        sys.exit(ExitCode.FAILED)
