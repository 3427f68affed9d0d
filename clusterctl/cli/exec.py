"""`clusterctl exec`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from clusterctl.cli.candidates import node_names
from clusterctl.cli.common import DASHES, Options
from clusterctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from clusterctl.hosts.ssh.streams import Piece


class WithCommand(click.Command):
    """A command whose words behind `--` are another command, kept apart from its own arguments."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take them off before click looks at the rest."""
        own, dashes, behind = _split(args)
        ctx.meta[DASHES] = behind if dashes else None
        return super().parse_args(ctx, own)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The usage line, with them."""
        return [*super().collect_usage_pieces(ctx), "-- COMMAND..."]


def _split(args: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    at = args.index(DASHES) if DASHES in args else len(args)
    return list(args[:at]), at < len(args), list(args[at + 1 :])


@click.command("exec", cls=WithCommand)
@click.option("--all", "everywhere", is_flag=True, help="Run it on all nodes of the inventory at once.")
@click.option(
    "--host", "on_host", is_flag=True, help="Run it on the node itself, over SSH, not in the cluster's container."
)
@click.option(
    "-T",
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds after which the command is ended (default: never).",
)
@click.argument("nodes", metavar="[NODE]...", nargs=-1, shell_complete=node_names)
@click.pass_context
def exec_(
    context: click.Context, *, nodes: tuple[str, ...], everywhere: bool, on_host: bool, timeout_s: float | None
) -> None:
    """Run a command in the cluster's container on a node: `clusterctl exec NODE -- nvidia-smi`.

    On one node its stdin (unless that is a terminal), stdout, stderr and exit code are passed through unchanged. If it
    could not be run, the exit code is 1, with `Error:` on stderr.

    With several NODEs, or --all, it runs on all of them at once, without stdin. Each line is prefixed with the node's
    name, and the exit code is 1 unless it was 0 everywhere.

    Ctrl-C and --timeout end the command and its children with SIGTERM, and after 3 s with SIGKILL.
    """
    from clusterctl.actions.exec import Order, run_on_each, run_on_one
    from clusterctl.actions.logs import chosen_nodes

    options: Options = context.obj
    argv = context.meta[DASHES]
    if not argv:
        raise UsageError("no command given", hint="put it after --: clusterctl exec NODE -- nvidia-smi")
    if everywhere == bool(nodes):
        raise UsageError("give either NODEs or --all", hint="clusterctl exec NODE -- …, or: clusterctl exec --all -- …")
    inventory = options.inventory()
    chosen = chosen_nodes(inventory, nodes)
    order = Order(inventory.cluster, argv, on_host, timeout_s)
    try:
        with options.hosts(inventory, chosen) as hosts:
            if everywhere or len(chosen) > 1:
                run_on_each(hosts, order, write)
                return
            code = run_on_one(hosts.one(chosen[0]), order, write, stdin())
    except BrokenPipeError:  # the reader went away (`… | head`): the command was ended, and that is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.OK
    except KeyboardInterrupt:
        click.echo("\ninterrupted: the command was ended on every node that could be reached", err=True)
        code = ExitCode.INTERRUPTED
    sys.exit(code)


def stdin() -> Iterator[bytes] | None:
    """What comes on stdin; None when that is a terminal, or closed."""
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        return None
    return iter(lambda: os.read(sys.stdin.fileno(), 65536), b"")


def write(piece: Piece) -> None:
    """Bytes as they are, at once, to the stream that they were written to."""
    stream, data = piece
    file = (sys.stdout if stream == "stdout" else sys.stderr).buffer
    file.write(data)
    file.flush()
