"""Every rule that needs more than one field, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from clusterctl.inventory.issue import Issue
from clusterctl.inventory.rules.container import derived_env, model_path, secret_env, shared_memory, ulimits, volumes
from clusterctl.inventory.rules.network import address_in_network, cidr, serve_host
from clusterctl.inventory.rules.nodes import head, node_addresses, node_hosts, node_names, version
from clusterctl.inventory.rules.ports import ports, worker_ports
from clusterctl.inventory.rules.serve import accelerators, api_key, layout, option_names, tls

Rule = Callable[[object], Iterator[Issue]]


def broken_rules(data: object, more: Sequence[Rule] = ()) -> list[Issue]:
    """Every broken rule, of these and of `more`."""
    return [issue for rule in (*RULES, *more) for issue in rule(data)]


RULES: tuple[Rule, ...] = (
    version,
    node_names,
    node_hosts,
    node_addresses,
    head,
    cidr,
    address_in_network,
    serve_host,
    ports,
    worker_ports,
    derived_env,
    secret_env,
    shared_memory,
    ulimits,
    volumes,
    model_path,
    accelerators,
    layout,
    option_names,
    api_key,
    tls,
)
