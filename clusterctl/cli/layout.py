"""`clusterctl layout`."""

from __future__ import annotations

import sys

import click

from clusterctl.cli.common import Options, emit, json_option
from clusterctl.errors import ClusterctlError, ExitCode


@click.command()
@json_option
@click.pass_obj
def layout(options: Options, as_json: bool) -> None:
    """Show how the model is spread over the nodes, whether it fits, and which other layouts do. Changes nothing."""
    from clusterctl.facts.fact import Unknown
    from clusterctl.facts.gather import gather
    from clusterctl.layout.report import report as layout_report
    from clusterctl.ui import layout as layout_text

    inventory = options.inventory()
    with options.hosts(inventory) as hosts:
        found = layout_report(inventory, gather(hosts, inventory))
    if isinstance(found, Unknown):
        raise ClusterctlError(f"no layout can be computed: {found.reason}", hint="clusterctl check shows what is wrong")
    emit(layout_text.to_json(found) if as_json else layout_text.text(found))
    if not found.chosen.possible:
        sys.exit(ExitCode.FAILED)
