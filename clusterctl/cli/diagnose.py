"""`diagnose`: evidence from all nodes in one file, and the causes that it points to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clusterctl.cli.common import Options, emit, json_option
from clusterctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from clusterctl.diagnosis.bundle import Bundle


@click.command()
@json_option
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The bundle's file (default: clusterctl-CLUSTER-TIME.tar.gz in this directory). Nothing is overwritten.",
)
@click.option("--no-bundle", is_flag=True, help="Print the causes only.")
@click.argument("bundle", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.pass_obj
def diagnose(options: Options, *, as_json: bool, output: Path | None, no_bundle: bool, bundle: Path | None) -> None:
    """Collect evidence from every node into one file, and list what went wrong, most likely first. Changes nothing.

    Secrets are removed from everything in the file. A node that does not respond is listed, and does not hold up the
    others.

    BUNDLE is such a file that somebody sent: then it is read instead. That needs no inventory, and contacts nobody.

    Exit codes: 0 nothing wrong was found and every node answered, 1 otherwise, 2 when BUNDLE cannot be read.
    """
    from clusterctl.diagnosis.bundle import summary

    if bundle is not None and (output is not None or no_bundle):
        raise UsageError("--output and --no-bundle are for a bundle to be written; BUNDLE is one to be read")
    found = _received(bundle) if bundle is not None else _collected(options, output, write=not no_bundle)
    if as_json:
        emit(found.to_json())
    else:
        emit("\n".join([*summary(found), *(["", f"bundle: {found.path}"] if found.path else [])]))
    if not found.fine:
        sys.exit(ExitCode.FAILED)


def _received(path: Path) -> Bundle:
    from clusterctl.diagnosis.received import received

    return received(path)


def _collected(options: Options, output: Path | None, *, write: bool) -> Bundle:
    from clusterctl.diagnosis.collect import Wanted, collect
    from clusterctl.ui.progress import progress_on_stderr

    inventory = options.inventory()
    with options.hosts(inventory) as hosts, progress_on_stderr() as progress:
        wanted = Wanted(Path.cwd(), output, write=write, inventory_file=options.path)
        return collect(hosts, inventory, wanted, progress)
