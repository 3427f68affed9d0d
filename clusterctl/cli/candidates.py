"""What shell completion offers for a word. An inventory that cannot be read offers nothing, and says nothing: whatever
is written while the shell completes a line lands in the middle of it."""

from __future__ import annotations

from pathlib import Path

import click

from clusterctl.cli.common import DASHES
from clusterctl.errors import ClusterctlError


def node_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Nodes of the inventory in play (-i, the environment's, the default), except those already named."""
    if context.meta.get(DASHES) is not None or context.params.get("everywhere"):
        return []  # a word of the command that is to run there; all nodes are named already
    return _fitting(_inventory_nodes(context.find_root().params.get("inventory")), context, parameter, incomplete)


def finding_codes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Codes of findings, except those already named."""
    from clusterctl.findings.rules import codes

    return _fitting(sorted(codes()), context, parameter, incomplete)


def _fitting(names: list[str], context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    given = context.params.get(parameter.name or "") or ()
    return [name for name in names if name.startswith(incomplete) and name not in given]


def _inventory_nodes(path: Path | None) -> list[str]:
    """Names of the nodes in the file: only what its text says, since checking it takes ten times as long."""
    from clusterctl.inventory.raw import dig, items, text
    from clusterctl.inventory.source import read_source

    if path is None:
        return []
    try:
        data = read_source(path.expanduser()).data  # the shell hands words over as they were typed
    except (ClusterctlError, OSError):
        return []
    return [name for node in items(dig(data, "nodes")) if (name := text(dig(node, "name")))]
