"""The inventory's rules that need to know its mode: ports, options and variables that the mode sets. Handed to
`load_inventory` from above, since the modes stand above the inventory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from clusterctl.inventory.issue import Issue, listed, path_text
from clusterctl.inventory.owned import DERIVED_ENV, OWNED_OPTIONS
from clusterctl.inventory.rules.container import derived_env, secret_env
from clusterctl.inventory.rules.serve import option_names
from clusterctl.modes.all import modes_of_data
from clusterctl.modes.mode import Mode
from clusterctl.modes.ports import Listener, PortField, listeners


def mode_rules(data: object) -> Iterator[Issue]:
    """Every broken rule of the mode that the inventory means, or may mean; what several say is said once."""
    yield from dict.fromkeys(issue for mode in modes_of_data(data) for issue in rules_of(mode, data))


def rules_of(mode: Mode, data: object) -> Iterator[Issue]:
    """Every broken rule of one mode."""
    derived = DERIVED_ENV | mode.owned_environment
    yield from distinct_ports(mode.listens, data)
    yield from derived_env(data, derived)
    yield from secret_env(data, derived)
    yield from option_names(data, {**OWNED_OPTIONS, **mode.owned})
    for rule in mode.rules:
        yield from rule(data)


def distinct_ports(listens: Sequence[PortField], data: object) -> Iterator[Issue]:
    """On the head everything listens, so no two may share a port."""
    taken: dict[Listener, list[str]] = {}
    for one, other in itertools.combinations(listeners(listens, data), 2):
        if one.last < other.first or other.last < one.first:
            continue
        at, against = (other, one) if other.given else (one, other)
        by_default = "" if against.given else " by default"
        taken.setdefault(at, []).append(f"{path_text(against.path)} has {against.ports}{by_default}")
    for at, others in taken.items():
        yield Issue(at.path, f"{at.ports} is already taken: {listed(others, 'and')}", "give each its own ports")
