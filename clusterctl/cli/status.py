"""`clusterctl status`."""

from __future__ import annotations

import sys

import click

from clusterctl.cli.common import Options, emit, json_option


@click.command()
@json_option
@click.option("--watch", is_flag=True, help="Refresh until interrupted.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.5),
    default=2.0,
    show_default=True,
    help="Seconds between refreshes with --watch.",
)
@click.pass_obj
def status(options: Options, as_json: bool, watch: bool, interval_s: float) -> None:
    """Show what runs, whether it is healthy, and whether it is what the inventory declares.

    Exit codes: 0 healthy and as declared, 3 degraded or different, 4 down, 5 a node cannot be asked.
    """
    from clusterctl.status import exit_code_of, read_status
    from clusterctl.ui import render
    from clusterctl.watch import watch_status

    with options.hosts() as hosts:
        if watch:
            watch_status(hosts, interval_s, as_json=as_json)
        found = read_status(hosts)
    emit(found.to_json() if as_json else render.status(found))
    sys.exit(exit_code_of(found))
