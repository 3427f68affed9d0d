"""`clusterctl metrics`: what Prometheus and Grafana need to watch the cluster."""

from __future__ import annotations

import click

from clusterctl.cli.common import Options, emit


@click.group()
def metrics() -> None:
    """Watch the cluster with Prometheus and Grafana: what to scrape, and a dashboard."""


@metrics.command()
@click.option("--offline", is_flag=True, help="Contact no node: use the addresses in the inventory.")
@click.pass_obj
def targets(options: Options, *, offline: bool) -> None:
    """Print what Prometheus is to scrape, as JSON for its file_sd_configs.

    Every node's agent, where the inventory sets metrics_port, and vLLM's own metrics on the API's port. Neither asks
    for the API's key, and no key is printed. Nodes are contacted only where the inventory does not give their address.
    """
    from clusterctl.cli.firewall import facts_of
    from clusterctl.deployment.firewall import addresses
    from clusterctl.deployment.scrape import targets as targets_of
    from clusterctl.inventory.endpoint import tls_certfile

    inventory = options.inventory()
    declared = all(node.address is not None for node in inventory.nodes)
    places = addresses(inventory, None if offline or declared else facts_of(options, inventory))
    emit(targets_of(inventory, places))
    if inventory.metrics_port is None:
        click.echo("note: only vLLM's own: the agents answer once the inventory has metrics_port, after `up`", err=True)
    if tls_certfile(inventory) is not None:
        click.echo(
            "note: vLLM's metrics are on https: give the certificate's authority to Prometheus as tls_config.ca_file",
            err=True,
        )


@metrics.command()
def dashboard() -> None:
    """Print a Grafana dashboard over the agents' metrics and vLLM's, as JSON to import."""
    from clusterctl.rendering import templates_dir

    emit(templates_dir().joinpath("grafana-dashboard.json").read_text(encoding="utf-8").rstrip())
