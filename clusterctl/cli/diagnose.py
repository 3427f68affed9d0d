"""`diagnose`: evidence from all nodes in one file, and the causes that it points to."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from clusterctl.cli.common import Options, emit, json_option
from clusterctl.errors import ExitCode


@click.command()
@json_option
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The bundle's file (default: clusterctl-CLUSTER-TIME.tar.gz in this directory). Nothing is overwritten.",
)
@click.option("--no-bundle", is_flag=True, help="Print the causes only.")
@click.pass_obj
def diagnose(options: Options, *, as_json: bool, output: Path | None, no_bundle: bool) -> None:
    """Collect evidence from every node into one file, and list what went wrong, most likely first. Changes nothing.

    Secrets are removed from everything in the file. A node that does not respond is listed, and does not hold up the
    others.

    Exit codes: 0 nothing wrong was found and every node answered, 1 otherwise.
    """
    from clusterctl.diagnosis.bundle import summary
    from clusterctl.diagnosis.collect import Wanted, collect
    from clusterctl.ui.progress import progress_on_stderr

    inventory = options.inventory()
    with options.hosts(inventory) as hosts, progress_on_stderr() as progress:
        wanted = Wanted(Path.cwd(), output, write=not no_bundle, inventory_file=options.path)
        bundle = collect(hosts, inventory, wanted, progress)
    if as_json:
        emit(bundle.to_json())
    else:
        emit("\n".join([*summary(bundle), *(["", f"bundle: {bundle.path}"] if bundle.path else [])]))
    if not bundle.fine:
        sys.exit(ExitCode.FAILED)
