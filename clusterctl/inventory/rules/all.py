"""Every rule that needs more than one field, in order, but for those that need to know more than the inventory does
(modes/rules.py, findings/waivers.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from clusterctl.inventory.issue import Issue
from clusterctl.inventory.rules.container import model_path, shared_memory, ulimits, volumes
from clusterctl.inventory.rules.network import address_in_network, cidr, network_given, serve_host
from clusterctl.inventory.rules.nodes import head, node_addresses, node_hosts, node_names, this_machine, version
from clusterctl.inventory.rules.placeholders import placeholders
from clusterctl.inventory.rules.serve import accelerators, api_key, balanced_experts, devices, tls

Rule = Callable[[object], Iterator[Issue]]


def broken_rules(data: object, more: Sequence[Rule] = ()) -> list[Issue]:
    """Every broken rule, of these and of `more`."""
    return [issue for rule in (*RULES, *more) for issue in rule(data)]


RULES: tuple[Rule, ...] = (
    placeholders,
    version,
    node_names,
    node_hosts,
    this_machine,
    node_addresses,
    head,
    network_given,
    cidr,
    address_in_network,
    serve_host,
    shared_memory,
    ulimits,
    volumes,
    model_path,
    accelerators,
    devices,
    api_key,
    balanced_experts,
    tls,
)
