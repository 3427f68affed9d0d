"""`clusterctl status`."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from clusterctl.cli.common import Options, emit, json_option

if TYPE_CHECKING:
    from clusterctl.status.status import ClusterStatus


@click.command()
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
    """Show what is running, whether it is healthy, and whether it matches the inventory.

    Exit codes: 0 healthy and as declared, 3 degraded or different, 4 down, 5 a node cannot be reached.
    """
    from clusterctl.actions.watch import watch_status
    from clusterctl.status.status import exit_code_of, read_status
    from clusterctl.ui import render

    inventory = options.inventory()
    with options.hosts(inventory) as hosts:
        if watch:
            watch_status(hosts, inventory, interval_s, _print_line if as_json else _redraw(interval_s))
        found = read_status(hosts, inventory)
    emit(found.to_json() if as_json else render.status(found))
    sys.exit(exit_code_of(found))


def _print_line(found: ClusterStatus) -> None:
    """One JSON object a line."""
    click.echo(json.dumps(found.to_json(), default=str))


def _redraw(interval_s: float) -> Callable[[ClusterStatus], None]:
    """On a terminal in place, elsewhere one after the other."""
    from clusterctl.ui import render

    def show(found: ClusterStatus) -> None:
        text = f"{time.strftime('%H:%M:%S')}  every {interval_s:g} s, Ctrl-C ends\n{render.status(found)}\n"
        if sys.stdout.isatty():
            click.clear()
            text = "\n".join(_beginning(text.splitlines(), *shutil.get_terminal_size()))
        click.echo(text)

    return show


def _beginning(lines: Sequence[str], columns: int, rows: int) -> Sequence[str]:
    """As many lines as a screen has room for, from the first: what matters stands first, and would scroll away."""
    free = rows - 2  # the cursor's, and the one that says how many are missing
    shown: list[str] = []
    for line in lines:
        free -= max(1, -(-len(line) // columns))
        if free < 0:
            return [*shown, f"… {len(lines) - len(shown)} more lines: clusterctl status shows them all"]
        shown.append(line)
    return shown
