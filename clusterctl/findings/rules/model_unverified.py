"""Weights in formats whose files do not say how large they should be."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.model_formats import asked, loaded
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
    why="only safetensors and GGUF files can be checked in seconds; of others only sizes were compared between nodes",
    fix="clusterctl check --full compares all bytes between the nodes",
)

CHECKED = (".safetensors", ".gguf")
"""Endings of files whose headers say how large they should be."""


@rule(Section.MODEL, UNVERIFIED)
def model_unverified(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Weights in formats whose files do not say how large they should be."""
    said = asked(inventory.serve.options)
    loads = {name: loaded(files, said) for name, files in files_by_node(facts).items()}
    found = {name: rest for name, files in loads.items() if (rest := [f for f in files if not f.endswith(CHECKED)])}
    if found:
        yield UNVERIFIED.found(*found, path=inventory.model.path, files=per_node(found))
