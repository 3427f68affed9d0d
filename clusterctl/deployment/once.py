"""What follows from an inventory and the facts of a pass is worked out once: many rules ask for it, for every node."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.inventory.model import Inventory

T = TypeVar("T")

KEPT = 4
"""Passes that are remembered: `up` looks twice."""


class _Same:
    """Equal to what holds the very same object. It is frozen, and kept alive as long as it is remembered."""

    def __init__(self, held: object) -> None:
        self.held = held

    def __hash__(self) -> int:
        return id(self.held)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.held is self.held


def once(work: Callable[[Inventory, ClusterFacts], T]) -> Callable[[Inventory, ClusterFacts], T]:
    """`work`, done once for the same inventory and facts."""

    @lru_cache(maxsize=KEPT)
    def remembered(inventory: _Same, facts: _Same) -> T:
        assert isinstance(inventory.held, Inventory)  # noqa: S101 (for the type checker)
        assert isinstance(facts.held, ClusterFacts)  # noqa: S101
        return work(inventory.held, facts.held)

    @wraps(work)
    def asked(inventory: Inventory, facts: ClusterFacts) -> T:
        return remembered(_Same(inventory), _Same(facts))

    return asked
