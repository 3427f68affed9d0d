"""`firewall`: rules for the nodes' own firewalls, printed and not applied."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import TYPE_CHECKING

import click

from clusterctl.cli.common import Options, echo
from clusterctl.errors import UsageError

if TYPE_CHECKING:
    from clusterctl.deployment.firewall import NodeRules
    from clusterctl.facts.cluster import ClusterFacts
    from clusterctl.inventory.model import Inventory

FORMATS = ("text", "nft", "iptables", "ufw", "firewalld")


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="The firewall to write rules for; text is for reading.",
)
@click.option("--clients", metavar="CIDR", multiple=True, help="Who may reach the API (repeatable).")
@click.option(
    "--prometheus",
    metavar="CIDR",
    multiple=True,
    help="Who may read metrics: metrics_port on every node, and the API's port, where vLLM's own are (repeatable).",
)
@click.option("--node", "nodes", metavar="NAME", multiple=True, help="Only this node's rules (repeatable).")
@click.option("--offline", is_flag=True, help="Contact no node: use the addresses in the inventory.")
@click.pass_obj
def firewall(
    options: Options,
    *,
    form: str,
    clients: tuple[str, ...],
    prometheus: tuple[str, ...],
    nodes: tuple[str, ...],
    offline: bool,
) -> None:
    """Print firewall rules that open everything between the nodes, the API to clients, and nothing else to others.

    Changes nothing. Each node has its own rules: `clusterctl firewall --format nft --node gpu1 > gpu1.nft`.

    Without --clients only the nodes can reach the API. With --offline, and for nodes that cannot be reached, the
    interface is unknown, and rules match by address alone.
    """
    from clusterctl.actions.logs import chosen_nodes
    from clusterctl.deployment.executor import choose
    from clusterctl.deployment.firewall import addresses, cluster_rules

    inventory = options.inventory()
    chosen = chosen_nodes(inventory, nodes)
    networks = [_network(given, "--clients") for given in clients]
    scrapers = [_network(given, "--prometheus") for given in prometheus]
    facts = None if offline else facts_of(options, inventory)
    places = addresses(inventory, facts)
    if facts is not None:
        inventory = choose(inventory, facts).inventory
    rules = cluster_rules(inventory, places, networks, scrapers)
    echo("\n\n".join(_page(form, node) for node in rules if node.node in chosen))


def facts_of(options: Options, inventory: Inventory) -> ClusterFacts:
    """What the nodes say of themselves."""
    from clusterctl.facts.gather import gather

    with options.hosts(inventory) as hosts:
        return gather(hosts, inventory)


def _page(form: str, node: NodeRules) -> str:
    from clusterctl.deployment.firewall import FORMATS as WRITERS

    return "\n".join(WRITERS[form](node))


def _network(given: str, option: str) -> IPv4Network:
    """The network of an option. Raises UsageError."""
    try:
        return IPv4Network(given)
    except ValueError as error:
        raise UsageError(f"{option}: {error}", hint="for example 192.0.2.0/24; 0.0.0.0/0 is everybody") from error
