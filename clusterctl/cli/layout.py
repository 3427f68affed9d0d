"""`clusterctl layout`."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from clusterctl.cli.common import Options, emit, json_option
from clusterctl.errors import ClusterctlError, ExitCode


@click.command()
@json_option
@click.option("--requests", type=click.IntRange(min=1), default=256, show_default=True, help="Requests at once.")
@click.option("--input-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Of each request.")
@click.option("--output-tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Of each request.")
@click.option("--bandwidth", is_flag=True, help="First measure the TCP throughput between the nodes (seconds).")
@click.pass_obj
def layout(
    options: Options, *, as_json: bool, requests: int, input_tokens: int, output_tokens: int, bandwidth: bool
) -> None:
    """Show how the model is spread over the nodes, whether it fits, and which other ways to serve it are faster.

    Speeds are estimates from the model's and the accelerators' figures, for the workload that the options describe.
    Changes nothing.
    """
    from clusterctl.facts.cluster import DeepFacts
    from clusterctl.facts.fact import Unknown
    from clusterctl.facts.gather import gather
    from clusterctl.layout.estimate import Workload
    from clusterctl.layout.report import report as layout_report
    from clusterctl.preflight.network import gather_pairs
    from clusterctl.ui import layout as layout_text

    inventory = options.inventory()
    with options.hosts(inventory) as hosts:
        facts = gather(hosts, inventory)
        if bandwidth:
            pairs = gather_pairs(hosts, inventory, facts, bandwidth=True)
            facts = replace(facts, deep=DeepFacts(images={}, gpus_wanted=0, pairs=pairs))
    found = layout_report(inventory, facts, Workload(requests, input_tokens, output_tokens))
    if isinstance(found, Unknown):
        raise ClusterctlError(f"no layout can be computed: {found.reason}", hint="clusterctl check shows what is wrong")
    emit(layout_text.to_json(found) if as_json else layout_text.text(found))
    if not found.chosen.possible:
        sys.exit(ExitCode.FAILED)
