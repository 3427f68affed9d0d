"""`firewall`: rules for the nodes' own firewalls, printed and not applied."""

from __future__ import annotations

from ipaddress import IPv4Network

import click

from clusterctl.cli.common import Options, echo
from clusterctl.errors import UsageError
from clusterctl.facts.gather import gather
from clusterctl.facts.model import ClusterFacts
from clusterctl.firewall import ANYWHERE, FORMATS, NodeRules, addresses, cluster_rules
from clusterctl.logs import chosen_nodes


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
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
    inventory = options.inventory()
    chosen = chosen_nodes(inventory, nodes)
    networks = [_network(given) for given in clients]
    places = addresses(inventory, None if offline else _facts(options))
    rules = cluster_rules(inventory, places, networks)
    echo("\n\n".join(_page(form, node) for node in rules if node.node in chosen))


def _facts(options: Options) -> ClusterFacts:
    with options.hosts() as hosts:
        return gather(hosts)


def _page(form: str, node: NodeRules) -> str:
    return "\n".join(FORMATS[form](node))


def _network(given: str) -> IPv4Network:
    """The network of --clients. Raises UsageError."""
    try:
        return IPv4Network(given)
    except ValueError as error:
        raise UsageError(f"--clients: {error}", hint=f"such as 192.0.2.0/24; {ANYWHERE} is everybody") from error
