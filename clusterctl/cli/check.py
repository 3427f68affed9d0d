"""`clusterctl check`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from clusterctl.cli.candidates import finding_codes
from clusterctl.cli.common import Options, emit, json_option, write_file
from clusterctl.errors import ExitCode, UsageError


@click.command()
@json_option
@click.option(
    "--full", is_flag=True, help="Also read every byte of the model and compare it between nodes (takes minutes)."
)
@click.option(
    "--deep", is_flag=True, help="Also import Ray and vLLM, and ask vLLM whether it supports the model (up to minutes)."
)
@click.option("--bandwidth", is_flag=True, help="Also measure the TCP throughput of every pair of nodes.")
@click.option(
    "--nccl", is_flag=True, help="Also run an all-reduce across the nodes, and report whether it uses RDMA or TCP."
)
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Also write JUnit XML to this file.")
@click.option("--explain", "explained", is_flag=True, help="Print what the CODEs mean, without contacting any node.")
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
    """Find what would fail, on every node, and how to fix it. Changes nothing.

    With CODEs only findings with these codes are reported (docs/reference/findings.md lists them).

    It also runs the image once on each node, with the flags of the serving container, and removes that container again.

    With --full each node caches the checksums in its login's ~/.cache/clusterctl, so that a second run takes seconds.
    """
    from clusterctl.actions.check import check_cluster
    from clusterctl.findings import rules
    from clusterctl.findings.explain import explain
    from clusterctl.findings.finding import has_errors
    from clusterctl.findings.junit import junit_xml
    from clusterctl.preflight.run import Asked
    from clusterctl.ui import render
    from clusterctl.ui.network import network_json
    from clusterctl.ui.progress import progress_on_stderr

    texts = [explain(code) for code in codes]  # also refuses a code that does not exist
    if explained:
        if not codes:
            raise UsageError("--explain needs a CODE", hint="for example: clusterctl check image-absent --explain")
        emit("\n\n".join(texts))
        return
    with options.hosts(inventory := options.inventory()) as hosts, progress_on_stderr() as progress:
        asked = Asked(registry=deep, bandwidth=bandwidth, collective=nccl)
        found = check_cluster(hosts, inventory, asked, progress, codes=codes, all_bytes=full)
    if as_json:
        findings, differing = [f.to_json() for f in found.findings], [row.to_json() for row in found.differing]
        network = network_json(found.environments, found.facts.deep, found.ports)
        emit({"findings": findings, "identity": differing, **network})
    else:
        network_text = render.network(found.environments, found.facts.deep, found.ports)
        emit(render.check_result(found.findings, found.differing, len(inventory.nodes), network=network_text))
    if junit is not None:
        write_file(junit, junit_xml(codes or sorted(rules.codes()), found.findings))
    if has_errors(found.findings):
        sys.exit(ExitCode.FAILED)
