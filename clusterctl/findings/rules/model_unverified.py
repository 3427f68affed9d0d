"""Weights in formats whose files do not say how large they should be."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.model import files_by_node, per_node
from clusterctl.inventory.model import Inventory

UNVERIFIED = Code(
    name="model-unverified",
    severity=WARNING,
    title="Weights that cannot be checked quickly",
    runbook="model.md",
    seen="weights in {path} that do not say how large they should be: {files}",
    why="only safetensors files can be checked in seconds; of others only sizes were compared between nodes",
    fix="clusterctl check --full compares all bytes between the nodes",
)


@rule(Section.MODEL, UNVERIFIED)
def model_unverified(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Weights in formats whose files do not say how large they should be."""
    found = {n: list(f.weights) for n, f in files_by_node(facts).items() if f.weights and not f.shards}
    if found:
        yield UNVERIFIED.found(*found, path=inventory.model.path, files=per_node(found))
