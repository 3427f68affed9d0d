"""`clusterctl down`."""

from __future__ import annotations

from dataclasses import asdict

import click

from clusterctl.cli.common import Options, drain_option, emit, json_option, wait_option


@click.command()
@json_option
@click.option("--purge", is_flag=True, help="Also remove the compiled code that the nodes keep for the next start.")
@drain_option
@wait_option
@click.pass_obj
def down(options: Options, *, as_json: bool, purge: bool, drain_s: float | None, wait_s: float | None) -> None:
    """Stop the server, then Ray, remove the containers, and verify that everything is gone."""
    from clusterctl.actions.down import down as take_down
    from clusterctl.lock.run import locked_run
    from clusterctl.ui import render
    from clusterctl.ui.progress import progress_on_stderr

    inventory = options.inventory()
    with (
        options.hosts(inventory) as hosts,
        progress_on_stderr() as progress,
        locked_run(hosts, inventory, "down", progress, wait_s=wait_s) as run,
    ):
        result = take_down(run, drain_s=drain_s, purge=purge)
    emit(asdict(result) if as_json else render.down_result(result))
