"""The group, its global options, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from clusterctl import __version__
from clusterctl.cli.api_key import api_key
from clusterctl.cli.bench import bench
from clusterctl.cli.check import check
from clusterctl.cli.common import COMPLETE_VARIABLE, PROGRAM, Options
from clusterctl.cli.completion import completion
from clusterctl.cli.diagnose import diagnose
from clusterctl.cli.down import down
from clusterctl.cli.examples import add_examples
from clusterctl.cli.exec import exec_
from clusterctl.cli.explain import explain
from clusterctl.cli.firewall import firewall
from clusterctl.cli.history import history
from clusterctl.cli.init import init
from clusterctl.cli.layout import layout
from clusterctl.cli.logs import logs
from clusterctl.cli.metrics import metrics
from clusterctl.cli.nodes import nodes
from clusterctl.cli.plan import plan
from clusterctl.cli.report import report
from clusterctl.cli.restart import restart
from clusterctl.cli.schema import schema
from clusterctl.cli.shell import shell
from clusterctl.cli.status import status
from clusterctl.cli.up import up
from clusterctl.cli.verify import verify
from clusterctl.cli.version import print_version
from clusterctl.errors import ClusterctlError, ExitCode
from clusterctl.findings.finding import ChecksFailedError
from clusterctl.lab.cli import lab


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
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_version,
    help="Show the version, with the commit where it is known, and exit.",
)
@click.pass_context
def cli(context: click.Context, inventory: Path, accept_new_host_keys: bool) -> None:
    """Turn N machines reachable over SSH into one vLLM endpoint, and prove that it works."""
    context.obj = Options(inventory, accept_new_host_keys=accept_new_host_keys)


cli.add_command(lab)
cli.add_command(init)
cli.add_command(up)
cli.add_command(check)
cli.add_command(nodes)
cli.add_command(layout)
cli.add_command(plan)
cli.add_command(status)
cli.add_command(verify)
cli.add_command(bench)
cli.add_command(report)
cli.add_command(down)
cli.add_command(restart)
cli.add_command(logs)
cli.add_command(history)
cli.add_command(diagnose)
cli.add_command(explain)
cli.add_command(exec_)
cli.add_command(shell)
cli.add_command(api_key)
cli.add_command(firewall)
cli.add_command(metrics)
cli.add_command(schema)
cli.add_command(completion)
add_examples(cli)


def main() -> NoReturn:
    """Run the command line. No traceback reaches a user, except with CLUSTERCTL_DEBUG set."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        cli.main(prog_name=PROGRAM, complete_var=COMPLETE_VARIABLE, standalone_mode=False)
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
        click.echo(f"{prefix}{error.full_message()}", err=True)
        if error.hint:
            click.echo(f"fix: {error.hint}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if os.environ.get("CLUSTERCTL_DEBUG"):
            raise
        click.echo(
            f"Error: this is a bug in clusterctl {__version__}: {type(error).__name__}: {error}\n"
            "fix: run it again with CLUSTERCTL_DEBUG=1 for the traceback, and report that to clusterctl's maintainers",
            err=True,
        )
        sys.exit(ExitCode.FAILED)
    sys.exit(ExitCode.OK)


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


CHANGING = frozenset({"up", "down", "restart"})
"""Commands that leave something on the nodes when they are cut off."""


def _interrupted() -> NoReturn:
    command = next((word for word in sys.argv[1:] if word in cli.commands), "")
    left = (
        ": what was started keeps running; `clusterctl status` shows what is there, `up` continues from it, "
        "`down` removes it"
    )
    click.echo(f"\ninterrupted{left if command in CHANGING else ''}", err=True)
    # Without waiting for threads that are in a remote call: their connections end with the process.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ExitCode.INTERRUPTED)
