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

FORMATS = ("text", "nft", "iptables", "ufw", "firewalld")


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="For which firewall. text: for a person.",
)
@click.option("--clients", metavar="CIDR", multiple=True, help="Who may reach the API (may be given several times).")
@click.option("--node", "nodes", metavar="NAME", multiple=True, help="Only this node's (may be given several times).")
@click.option("--offline", is_flag=True, help="Ask no node: addresses are those of the inventory.")
@click.pass_obj
def firewall(options: Options, *, form: str, clients: tuple[str, ...], nodes: tuple[str, ...], offline: bool) -> None:
    """Print firewall rules: everything between the nodes, the API for clients, nothing of ours for others.

    Changes nothing. Each node has its own rules: `clusterctl firewall --format nft --node gpu1 > gpu1.nft`.

    Without --clients only the nodes reach the API. With --offline, and of nodes that cannot be reached, no interface is
    known, and rules go by address alone.
    """
    from clusterctl.actions.logs import chosen_nodes
    from clusterctl.deployment.executor import choose
    from clusterctl.deployment.firewall import addresses, cluster_rules

    inventory = options.inventory()
    chosen = chosen_nodes(inventory, nodes)
    networks = [_network(given) for given in clients]
    facts = None if offline else _facts(options)
    places = addresses(inventory, facts)
    if facts is not None:
        inventory = choose(inventory, facts).inventory
    rules = cluster_rules(inventory, places, networks)
    echo("\n\n".join(_page(form, node) for node in rules if node.node in chosen))


def _facts(options: Options) -> ClusterFacts:
    from clusterctl.facts.gather import gather

    with options.hosts() as hosts:
        return gather(hosts)


def _page(form: str, node: NodeRules) -> str:
    from clusterctl.deployment.firewall import FORMATS as WRITERS

    return "\n".join(WRITERS[form](node))


def _network(given: str) -> IPv4Network:
    """The network of --clients. Raises UsageError."""
    try:
        return IPv4Network(given)
    except ValueError as error:
        raise UsageError(f"--clients: {error}", hint="such as 192.0.2.0/24; 0.0.0.0/0 is everybody") from error
