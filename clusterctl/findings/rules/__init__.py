"""The rules, one file each, found by looking into this folder. A new check is a new file, and its runbook entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import Rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory


@cache
def rules() -> tuple[Rule, ...]:
    """Every rule, in the order in which findings are shown: by section, then by the name of the file."""
    modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Rule)]
    order = list(Section)
    return tuple(sorted(found, key=lambda rule: (order.index(rule.section), rule.find.__module__)))


@cache
def codes() -> Mapping[str, tuple[Code, ...]]:
    """Every code by its name, in the order of `rules`; several where it has several wordings."""
    found: dict[str, tuple[Code, ...]] = {}
    for rule in rules():
        for code in rule.codes:
            found[code.name] = (*found.get(code.name, ()), code)
    return found


@cache
def never_waived() -> frozenset[str]:
    """Codes that the inventory cannot waive: no plan can be made without what they miss (deployment/resolve.py)."""
    return frozenset(name for name, (code, *_) in codes().items() if not code.waivable)


def check(inventory: Inventory, facts: ClusterFacts) -> tuple[Finding, ...]:
    """Every finding, in the order of `rules` and of the inventory's nodes; waived ones are marked."""
    findings = (finding for rule in rules() for finding in rule(inventory, facts))
    return tuple(replace(finding, waived=finding.code in inventory.waive) for finding in findings)
