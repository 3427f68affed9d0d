"""A rule: a pure function from what was asked for and what is there to findings, with the codes that it yields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

Find = Callable[[Inventory, ClusterFacts], Iterator[Finding]]


@dataclass(frozen=True)
class Rule:
    """A rule of the folder `rules/`; called like the function that it was made from."""

    section: Section
    codes: tuple[Code, ...]
    """Every wording of every code that it yields."""
    find: Find

    def __call__(self, inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
        """Its findings."""
        return self.find(inventory, facts)


def rule(section: Section, *codes: Code) -> Callable[[Find], Rule]:
    """Make a rule of a function: `@rule(Section.MODEL, MISSING, BROKEN)`."""
    return lambda find: Rule(section, codes, find)
