"""`api-key`: the key that clients of the running cluster must send."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from clusterctl.cli.common import Options, echo
from clusterctl.errors import ClusterctlError

if TYPE_CHECKING:
    from clusterctl.inventory.model import Inventory


@click.command("api-key")
@click.pass_obj
def api_key(options: Options) -> None:
    """Print the API key of the running cluster, and nothing else.

    It is read from the head's container, so anybody who can log in to the head with this inventory can read it.
    """
    from clusterctl.agent.paths import container_name
    from clusterctl.facts.api_key import held_api_key

    inventory = options.inventory()
    # The head alone: a worker that is down must not keep anybody from asking the API.
    with options.hosts(inventory, only=(inventory.head_name,)) as hosts:
        head, container = hosts.head, container_name(inventory.cluster)
        key = held_api_key(head, container)
        exists = key is not None or head.engine.container(container) is not None
    if key is None:
        raise _no_key(inventory, exists=exists)
    echo(key.decode())


def _no_key(inventory: Inventory, *, exists: bool) -> ClusterctlError:
    head = inventory.head_name
    if not exists:
        return ClusterctlError(f"{head}: there is no container of cluster {inventory.cluster}", hint="clusterctl up")
    if inventory.serve.api_key == "off":
        return ClusterctlError(f"{inventory.cluster} has no API key (serve.api_key: off)", hint="clients need none")
    return ClusterctlError(
        f"{head}: the container of cluster {inventory.cluster} has no API key",
        hint="it was started without one: `clusterctl plan` shows what `clusterctl up` would change",
    )


def key_command(inventory: Inventory) -> str | None:
    """The command line that prints the key, as it works where this one was typed; None when there is no key."""
    if inventory.serve.api_key == "off":
        return None
    root = click.get_current_context().find_root()
    given = root.get_parameter_source("inventory") is ParameterSource.COMMANDLINE
    chosen = ["-i", str(root.params["inventory"])] if given else []
    return shlex.join([*_program(), *chosen, "api-key"])


def _program() -> list[str]:
    """How this program was called: by its name where the shell finds it, else by its path, or as a module."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return [sys.executable, "-m", "clusterctl"]
    found = shutil.which("clusterctl")
    return ["clusterctl"] if found is not None and Path(found).samefile(called) else [str(called)]
