"""`clusterctl down`."""

from __future__ import annotations

from dataclasses import asdict

import click

from clusterctl.cli.common import Options, drain_option, emit, json_option, wait_option


@click.command()
@json_option
@drain_option
@wait_option
@click.pass_obj
def down(options: Options, *, as_json: bool, drain_s: float | None, wait_s: float | None) -> None:
    """Stop the server, then Ray, remove the containers, and prove that everything is gone."""
    from clusterctl.actions.down import down as take_down
    from clusterctl.lock.cluster import cluster_lock
    from clusterctl.lock.operator import whoami
    from clusterctl.ui import render
    from clusterctl.ui.progress import progress_on_stderr

    with (
        options.hosts() as hosts,
        progress_on_stderr() as progress,
        cluster_lock(hosts, "down", wait_s=wait_s, progress=progress) as lock,
    ):
        result = take_down(hosts, progress, lock, by=whoami(), drain_s=drain_s)
    emit(asdict(result) if as_json else render.down_result(result))
