"""What an interrupted or still running download left."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.model_formats import asked
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.model import absent_shards, files_by_node, per_node
from clusterctl.inventory.model import Inventory

UNFINISHED = Code(
    name="model-download-unfinished",
    severity=WARNING,
    title="An unfinished download",
    runbook="model.md",
    seen="an unfinished download in {path}: {files}",
    why="files may still be missing or change; what is there was checked as it is now",
    fix="wait for the download or start it again; when the model is whole, remove these files",
)


@rule(Section.MODEL, UNFINISHED)
def model_unfinished(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """What an interrupted or still running download left."""
    models = files_by_node(facts)
    said = asked(inventory.serve.options)
    found = {n: list(f.unfinished) for n, f in models.items() if f.unfinished and not absent_shards(models, f, said)}
    if found:
        yield UNFINISHED.found(*found, path=inventory.model.path, files=per_node(found))
