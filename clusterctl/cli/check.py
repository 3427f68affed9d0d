"""`clusterctl check`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clusterctl.cli.candidates import finding_codes
from clusterctl.cli.common import Options, emit, json_option, write_file
from clusterctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from clusterctl.facts.cluster import ClusterFacts
    from clusterctl.inventory.model import Inventory
    from clusterctl.preflight.run import Asked


@click.command()
@json_option
@click.option("--full", is_flag=True, help="Read all bytes of the model too (minutes), and compare them between nodes.")
@click.option("--deep", is_flag=True, help="Also import Ray and vLLM, and ask vLLM about the model (up to minutes).")
@click.option("--bandwidth", is_flag=True, help="Also measure the TCP throughput of every pair of nodes.")
@click.option(
    "--nccl", is_flag=True, help="Also run an all-reduce across the nodes, and see whether it goes over RDMA or TCP."
)
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Also write JUnit XML to this file.")
@click.option("--explain", "explained", is_flag=True, help="Print what the CODEs mean; no node is asked.")
@click.argument("codes", metavar="[CODE]...", nargs=-1, shell_complete=finding_codes)
@click.pass_obj
def check(
    options: Options,
    *,
    codes: tuple[str, ...],
    explained: bool,
    as_json: bool,
    full: bool,
    deep: bool,
    bandwidth: bool,
    nccl: bool,
    junit: Path | None,
) -> None:
    """Find what would fail, on every node, and say how to fix it. Changes nothing.

    With CODEs only findings with these codes are reported (docs/reference/findings.md lists them).

    It also runs the image once on each node, with the flags of the serving container, and removes it again.

    With --full each node keeps what it read in its login's ~/.cache/clusterctl, so that a second run takes seconds.
    """
    from clusterctl.findings.explain import explain
    from clusterctl.preflight.run import Asked

    texts = [explain(code) for code in codes]  # also refuses a code that does not exist
    if explained:
        if not codes:
            raise UsageError("--explain needs a CODE", hint="clusterctl check image-absent --explain")
        emit("\n\n".join(texts))
        return
    inventory, facts = _observe(options, Asked(registry=deep, bandwidth=bandwidth, collective=nccl), full=full)
    _report(inventory, facts, codes, as_json=as_json, junit=junit)


def _observe(options: Options, asked: Asked, *, full: bool) -> tuple[Inventory, ClusterFacts]:
    """Everything that can be known of the nodes; `full`: of all bytes of the model too."""
    from clusterctl.facts.gather import gather
    from clusterctl.facts.model_bytes import with_digests
    from clusterctl.preflight.run import with_deep
    from clusterctl.ui.progress import progress_on_stderr

    with options.hosts() as hosts, progress_on_stderr() as progress:
        progress.phase("reading the nodes")
        facts = gather(hosts, progress)
        if full:
            facts = with_digests(hosts, facts, progress)
        progress.phase("running the image on every node, and trying the network between them")
        return hosts.inventory, with_deep(hosts, facts, asked)


def _report(
    inventory: Inventory, facts: ClusterFacts, codes: tuple[str, ...], *, as_json: bool, junit: Path | None
) -> None:
    """Print what is found of these codes, or of all; exit with 1 when it holds an error."""
    from clusterctl.deployment.environment import network_environments
    from clusterctl.findings import rules
    from clusterctl.findings.finding import has_errors
    from clusterctl.findings.identity import differences
    from clusterctl.findings.junit import junit_xml
    from clusterctl.ui import render
    from clusterctl.ui.network import network_json

    findings = [f for f in rules.check(inventory, facts) if not codes or f.code in codes]
    differing = differences(inventory, facts)
    environments = network_environments(inventory, facts)
    emit(
        {
            "findings": [finding.to_json() for finding in findings],
            "identity": [row.to_json() for row in differing],
            **network_json(environments, facts.deep),
        }
        if as_json
        else render.check_result(
            findings, differing, len(inventory.nodes), network=render.network(environments, facts.deep)
        )
    )
    if junit is not None:
        write_file(junit, junit_xml(codes or sorted(rules.codes()), findings))
    if has_errors(findings):
        sys.exit(ExitCode.FAILED)
