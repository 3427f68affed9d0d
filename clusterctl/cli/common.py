"""What every command shares: the global options, and how results leave.

Command modules import at their top only click and light modules like this one, and what a command does inside its
function: `clusterctl --help` and every Tab of shell completion load all command modules, and SSH, Docker's SDK and
pydantic together take half a second (test_start_up keeps them out).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clusterctl.errors import ClusterctlError, ExitCode

if TYPE_CHECKING:
    from clusterctl.hosts.host import Hosts
    from clusterctl.inventory.model import Inventory

PROGRAM = "clusterctl"
COMPLETE_VARIABLE = "_CLUSTERCTL_COMPLETE"
"""Set by the shell's completion script (`clusterctl completion`); click then answers with candidates."""

DASHES = "--"
"""Key in a context's meta for the words behind it, of commands that take another command (exec.py)."""


class Options:
    """Global options, and the inventory, read when a command first needs it."""

    def __init__(self, inventory: Path, *, accept_new_host_keys: bool) -> None:
        self.path = inventory
        self.accept_new_host_keys = accept_new_host_keys

    def inventory(self) -> Inventory:
        """The inventory. Raises InventoryError with everything that is wrong with it."""
        from clusterctl.findings.waivers import waivers
        from clusterctl.inventory.load import load_inventory
        from clusterctl.modes.rules import mode_rules

        return load_inventory(self.path, (waivers, mode_rules))

    def hosts(self, inventory: Inventory, only: Container[str] | None = None) -> Hosts:
        """Connections to all nodes of the inventory, or only to those of these names; not yet open.

        What ssh_config says of them and is not followed goes to stderr. Raises UsageError for one that OpenSSH refuses.
        """
        from clusterctl.hosts.host import Hosts
        from clusterctl.hosts.ssh.route import told

        hosts = Hosts(inventory, accept_new_host_keys=self.accept_new_host_keys, only=only)
        for line in told(hosts.routes):
            click.echo(f"warning: {line}", err=True)
        return hosts


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
wait_option = click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    is_flag=False,
    flag_value=3600.0,
    metavar="[SECONDS]",
    help="Wait for the cluster's lock while another run holds it: an hour, or SECONDS.",
)
drain_option = click.option(
    "--drain-timeout",
    "drain_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long running requests may take to finish; 0 aborts them at once. Default: timeouts.drain_s.",
)


def emit(result: object) -> None:
    """A result to stdout: text as it is, anything else as JSON."""
    echo(result if isinstance(result, str) else json.dumps(result, indent=2, default=str))


def echo(line: str) -> None:
    """A line to stdout. A reader that went away (`clusterctl logs | head`) ends the command, and is no error."""
    try:
        click.echo(line)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.OK)


def write_file(path: Path, text: str) -> None:
    """A result to a file. Raises ClusterctlError when it cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ClusterctlError(f"cannot write {path}: {error.strerror}") from error
