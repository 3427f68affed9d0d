"""`clusterctl up`."""

from __future__ import annotations

from dataclasses import asdict

import click

from clusterctl.cli.api_key import key_command
from clusterctl.cli.common import Options, emit, json_option, wait_option


@click.command()
@json_option
@click.option("--keep", is_flag=True, help="If the start fails, keep what was started (default: remove it).")
@click.option(
    "--check",
    "checks",
    type=click.Choice(["quick", "full"]),
    default="full",
    show_default=True,
    help="full: everything that `check` checks, when there is something to start. quick: only what can be read, "
    "without starting containers.",
)
@wait_option
@click.pass_obj
def up(options: Options, *, as_json: bool, keep: bool, checks: str, wait_s: float | None) -> None:
    """Check the nodes, start the cluster, and wait for a real completion."""
    from clusterctl.actions.up import UpOptions
    from clusterctl.actions.up import up as bring_up
    from clusterctl.lock.run import locked_run
    from clusterctl.ui import render
    from clusterctl.ui.progress import progress_on_stderr

    asked = UpOptions(keep=keep, full_check=checks == "full")
    inventory = options.inventory()
    with (
        options.hosts(inventory) as hosts,
        progress_on_stderr() as progress,
        locked_run(hosts, inventory, "up", progress, wait_s=wait_s) as run,
    ):
        summary = bring_up(run, asked)
    emit(asdict(summary) if as_json else render.up_summary(summary, key_command(run.inventory)))
