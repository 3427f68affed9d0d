"""`clusterctl report`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from clusterctl.cli.common import Options, emit
from clusterctl.errors import ExitCode


@click.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write (default: CLUSTER-report-TIME.html in this directory). Nothing is overwritten.",
)
@click.option(
    "--verify",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A record of `verify` to show (default: the latest one in this directory).",
)
@click.option(
    "--bench",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A record of `bench` to show (default: the latest one in this directory).",
)
@click.pass_obj
def report(options: Options, *, output: Path | None, verify: Path | None, bench: Path | None) -> None:
    """Write one HTML page of the cluster, to send to somebody.

    Status, findings, layout, the phases of the last start, runs and restarts with their reasons, records of `verify`
    and `bench`, and the inventory. The page refers to nothing outside of itself, and secrets are left out; names and
    addresses of the machines are not. Changes nothing.

    Exit codes: 0 written, 1 no node could be reached (it is written, with what is known), 2 a record cannot be read.
    """
    from datetime import UTC, datetime

    from clusterctl.actions.report import collect, find_records
    from clusterctl.records.files import ready, record_name, write_new
    from clusterctl.ui.progress import progress_on_stderr
    from clusterctl.ui.report import as_html

    inventory, made_at = options.inventory(), datetime.now(UTC)
    records = find_records(inventory.cluster, Path(), verify, bench)
    target = output or Path(f"{record_name(inventory.cluster, 'report', made_at)}.html")
    ready(target.parent)
    with options.hosts(inventory) as hosts, progress_on_stderr() as progress:
        found = collect(hosts, inventory, records, progress, made_at)
    write_new(target, as_html(found))
    emit(f"report: {target}")
    if found.blind:
        sys.exit(ExitCode.FAILED)
