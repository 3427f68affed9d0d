"""`clusterctl plan`."""

from __future__ import annotations

import sys

import click

from clusterctl.cli.common import Options, emit, json_option
from clusterctl.errors import ExitCode


@click.command()
@json_option
@click.option(
    "--detailed-exitcode",
    is_flag=True,
    help="Exit with 0 if there is nothing to do, 2 if there are changes, 1 on error.",
)
@click.pass_obj
def plan(options: Options, as_json: bool, detailed_exitcode: bool) -> None:
    """Show what `up` would change. Changes nothing."""
    from clusterctl.actions.prepare import prepare

    inventory = options.inventory()
    with options.hosts(inventory) as hosts:
        prepared = prepare(hosts, inventory)
    emit(prepared.plan.to_json() if as_json else "\n".join(prepared.plan.lines()))
    if detailed_exitcode and not prepared.plan.empty:
        sys.exit(ExitCode.CHANGES)
