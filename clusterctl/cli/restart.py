"""`clusterctl restart`."""

from __future__ import annotations

from dataclasses import asdict

import click

from clusterctl.cli.api_key import key_command
from clusterctl.cli.common import Options, drain_option, emit, json_option, wait_option


@click.command()
@json_option
@click.option("--server-only", is_flag=True, help="Restart only the server; keep Ray and the containers.")
@drain_option
@wait_option
@click.pass_obj
def restart(options: Options, *, as_json: bool, server_only: bool, drain_s: float | None, wait_s: float | None) -> None:
    """Let running requests finish, restart everything (or only the server), and wait for a real completion."""
    from clusterctl.actions.restart import restart as restart_all
    from clusterctl.actions.restart import restart_server
    from clusterctl.actions.up import UpOptions
    from clusterctl.lock.run import locked_run
    from clusterctl.ui import render
    from clusterctl.ui.progress import progress_on_stderr

    command = "restart --server-only" if server_only else "restart"
    inventory = options.inventory()
    with (
        options.hosts(inventory) as hosts,
        progress_on_stderr() as progress,
        locked_run(hosts, inventory, command, progress, wait_s=wait_s) as run,
    ):
        summary = restart_server(run, drain_s=drain_s) if server_only else restart_all(run, UpOptions(drain_s=drain_s))
    emit(asdict(summary) if as_json else render.up_summary(summary, key_command(run.inventory)))
