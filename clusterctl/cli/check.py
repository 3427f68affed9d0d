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
    from clusterctl.deployment.environment import network_environments
    from clusterctl.facts.gather import gather
    from clusterctl.facts.model_bytes import with_digests
    from clusterctl.findings.explain import explain
    from clusterctl.findings.finding import has_errors
    from clusterctl.findings.identity import differences
    from clusterctl.findings.junit import junit_xml
    from clusterctl.findings.rules import check as find_problems
    from clusterctl.findings.rules import codes as all_codes
    from clusterctl.preflight.run import Asked, with_deep
    from clusterctl.ui import render
    from clusterctl.ui.network import network_json
    from clusterctl.ui.progress import progress_on_stderr

    texts = [explain(code) for code in codes]  # also refuses a code that does not exist
    if explained:
        if not codes:
            raise UsageError("--explain needs a CODE", hint="clusterctl check image-absent --explain")
        emit("\n\n".join(texts))
        return
    with options.hosts() as hosts, progress_on_stderr() as progress:
        progress.phase("reading the nodes")
        facts = gather(hosts, progress)
        if full:
            facts = with_digests(hosts, facts, progress)
        progress.phase("running the image on every node, and trying the network between them")
        facts = with_deep(hosts, facts, Asked(registry=deep, bandwidth=bandwidth, collective=nccl))
        findings = [f for f in find_problems(hosts.inventory, facts) if not codes or f.code in codes]
        differing = differences(hosts.inventory, facts)
        environments = network_environments(hosts.inventory, facts)
    emit(
        {
            "findings": [finding.to_json() for finding in findings],
            "identity": [row.to_json() for row in differing],
            **network_json(environments, facts.deep),
        }
        if as_json
        else render.check_result(
            findings, differing, len(hosts.inventory.nodes), network=render.network(environments, facts.deep)
        )
    )
    if junit is not None:
        write_file(junit, junit_xml(codes or sorted(all_codes()), findings))
    if has_errors(findings):
        sys.exit(ExitCode.FAILED)
