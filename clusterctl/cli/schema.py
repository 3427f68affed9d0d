"""`clusterctl schema`."""

from __future__ import annotations

import click

from clusterctl.cli.common import emit


@click.command()
def schema() -> None:
    """Print the inventory's JSON Schema, for editors."""
    from clusterctl.inventory.schema import json_schema

    emit(json_schema())
