"""What every command shares: the global options, and how results leave."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from clusterctl.errors import ClusterctlError, ExitCode
from clusterctl.hosts.host import Hosts
from clusterctl.inventory.load import load_inventory
from clusterctl.inventory.model import Inventory


class Options:
    """Global options, and the inventory, read when a command first needs it."""

    def __init__(self, inventory: Path, *, accept_new_host_keys: bool) -> None:
        self.path = inventory
        self.accept_new_host_keys = accept_new_host_keys

    def inventory(self) -> Inventory:
        """The inventory. Raises InventoryError with everything that is wrong with it."""
        return load_inventory(self.path)

    def hosts(self) -> Hosts:
        """Connections to all nodes, not yet open."""
        return Hosts(self.inventory(), accept_new_host_keys=self.accept_new_host_keys)


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


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
