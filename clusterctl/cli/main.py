"""The group, its global options, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import click

from clusterctl import __version__
from clusterctl.cli.common import Options, echo, emit, json_option, write_file
from clusterctl.cli.diagnose import diagnose
from clusterctl.down import down as take_down
from clusterctl.errors import ClusterctlError, ExitCode, UsageError
from clusterctl.facts.deep import Asked, with_deep
from clusterctl.facts.gather import gather
from clusterctl.facts.model import Unknown
from clusterctl.facts.model_bytes import with_digests
from clusterctl.findings.codes import CODES
from clusterctl.findings.explain import explain
from clusterctl.findings.finding import ChecksFailedError, has_errors
from clusterctl.findings.identity import differences
from clusterctl.findings.junit import junit_xml
from clusterctl.findings.rules import check as find_problems
from clusterctl.inventory.schema import json_schema
from clusterctl.lab.cli import lab
from clusterctl.layout.report import report as layout_report
from clusterctl.logs import chosen_nodes, show_logs
from clusterctl.planning.environment import network_environments
from clusterctl.status import exit_code_of, read_status
from clusterctl.ui import layout as layout_text
from clusterctl.ui import render
from clusterctl.ui.network import network_json
from clusterctl.ui.progress import progress_on_stderr
from clusterctl.up import prepare
from clusterctl.up import up as bring_up
from clusterctl.watch import watch_status


@click.group(context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": None})
@click.option(
    "-i",
    "--inventory",
    type=click.Path(path_type=Path, dir_okay=True),
    default=Path("inventory.yaml"),
    envvar="CLUSTERCTL_INVENTORY",
    show_envvar=True,
    show_default=True,
    help="Inventory file.",
)
@click.option(
    "--accept-new-host-keys",
    is_flag=True,
    help="Pin the host keys of nodes seen for the first time (changed keys are still refused).",
)
@click.version_option(__version__, prog_name="clusterctl")
@click.pass_context
def cli(context: click.Context, inventory: Path, accept_new_host_keys: bool) -> None:
    """Turn N machines reachable over SSH into one vLLM endpoint, and prove that it works."""
    context.obj = Options(inventory, accept_new_host_keys=accept_new_host_keys)


cli.add_command(lab)
cli.add_command(diagnose)


@cli.command()
@json_option
@click.option("--keep", is_flag=True, help="Leave what was started when the start fails (default: save logs, remove).")
@click.option(
    "--check",
    "checks",
    type=click.Choice(["quick", "full"]),
    default="full",
    show_default=True,
    help="full: everything that `check` looks at, when there is something to start. quick: only what one look shows.",
)
@click.pass_obj
def up(options: Options, as_json: bool, keep: bool, checks: str) -> None:
    """Check the nodes, start the cluster, wait until a real completion comes back."""
    with options.hosts() as hosts, progress_on_stderr() as progress:
        summary = bring_up(hosts, progress, keep=keep, full_check=checks == "full")
    emit(asdict(summary) if as_json else render.up_summary(summary))


@cli.command()
@json_option
@click.option("--full", is_flag=True, help="Read all bytes of the model too (minutes), and compare them between nodes.")
@click.option("--deep", is_flag=True, help="Also import Ray and vLLM, and ask vLLM about the model (up to minutes).")
@click.option("--bandwidth", is_flag=True, help="Also measure the TCP throughput of every pair of nodes.")
@click.option(
    "--nccl", is_flag=True, help="Also run an all-reduce across the nodes, and see whether it goes over RDMA or TCP."
)
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Also write JUnit XML to this file.")
@click.option("--explain", "explained", is_flag=True, help="Print what the CODEs mean; no node is asked.")
@click.argument("codes", metavar="[CODE]...", nargs=-1)
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
        write_file(junit, junit_xml(codes or sorted(CODES), findings))
    if has_errors(findings):
        sys.exit(ExitCode.FAILED)


@cli.command()
@json_option
@click.pass_obj
def layout(options: Options, as_json: bool) -> None:
    """Show how the model lies on the nodes, what fits, and which other layouts would do. Changes nothing."""
    with options.hosts() as hosts:
        found = layout_report(hosts.inventory, gather(hosts))
    if isinstance(found, Unknown):
        raise ClusterctlError(f"no layout can be computed: {found.reason}", hint="clusterctl check says what is wrong")
    emit(layout_text.to_json(found) if as_json else layout_text.text(found))
    if not found.chosen.possible:
        sys.exit(ExitCode.FAILED)


@cli.command()
@json_option
@click.option("--detailed-exitcode", is_flag=True, help="Exit with 0: nothing to do, 2: changes, 1: error.")
@click.pass_obj
def plan(options: Options, as_json: bool, detailed_exitcode: bool) -> None:
    """Show what `up` would change. Changes nothing."""
    with options.hosts() as hosts:
        prepared = prepare(hosts)
    emit(prepared.plan.to_json() if as_json else "\n".join(prepared.plan.lines()))
    if detailed_exitcode and not prepared.plan.empty:
        sys.exit(ExitCode.CHANGES)


@cli.command()
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
    with options.hosts() as hosts:
        if watch:
            watch_status(hosts, interval_s, as_json=as_json)
        found = read_status(hosts)
    emit(found.to_json() if as_json else render.status(found))
    sys.exit(exit_code_of(found))


@cli.command()
@json_option
@click.pass_obj
def down(options: Options, as_json: bool) -> None:
    """Stop the server, then Ray, remove the containers, and prove that everything is gone."""
    with options.hosts() as hosts, progress_on_stderr() as progress:
        result = take_down(hosts, progress)
    emit(asdict(result) if as_json else render.down_result(result))


@cli.command()
@click.option("--node", "nodes", multiple=True, help="Only this node (may be given several times).")
@click.option("-f", "--follow", is_flag=True, help="Go on as new lines come.")
@click.option("--tail", type=click.IntRange(min=0), help="Only the last lines of each node.")
@click.pass_obj
def logs(options: Options, nodes: tuple[str, ...], follow: bool, tail: int | None) -> None:
    """Print the containers' logs, each line with its node's name."""
    chosen = chosen_nodes(options.inventory(), nodes)
    with options.hosts() as hosts:
        show_logs(hosts, chosen, follow=follow, tail=tail, write=echo)


@cli.command()
def schema() -> None:
    """Print the inventory's JSON Schema, for editors."""
    emit(json_schema())


def main() -> NoReturn:
    """Run the command line. No traceback reaches a user, except with CLUSTERCTL_DEBUG set."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.Abort:
        _interrupted()
    except KeyboardInterrupt:
        _interrupted()
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except ClusterctlError as error:
        # Findings bring their own severity.
        prefix = "" if isinstance(error, ChecksFailedError) else "Error: "
        click.echo(f"{prefix}{error.message}", err=True)
        if error.hint:
            click.echo(f"fix: {error.hint}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if os.environ.get("CLUSTERCTL_DEBUG"):
            raise
        click.echo(
            f"Error: a defect of clusterctl ({type(error).__name__}: {error}); nothing more is known.\n"
            "fix: run it again with CLUSTERCTL_DEBUG=1 and report what it prints",
            err=True,
        )
        sys.exit(ExitCode.FAILED)
    sys.exit(ExitCode.OK)


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _interrupted() -> NoReturn:
    click.echo(
        "\ninterrupted: what was started goes on by itself; `clusterctl status` says what is there, "
        "`up` goes on from it, `down` removes it",
        err=True,
    )
    # Without waiting for threads that are in a remote call: their connections end with the process.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ExitCode.INTERRUPTED)
