"""Truncated files, files that are too long, and files without a valid header."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.model import damaged, files_by_node, per_node
from clusterctl.inventory.model import Inventory

DAMAGED = Code(
    name="model-file-damaged",
    severity=ERROR,
    title="Damaged files",
    runbook="model.md",
    seen="damaged files in {path}: {files}",
    why="a copy was interrupted or went wrong: loading fails with MetadataIncompleteBuffer or HeaderTooLarge",
    fix="check the space left (df -h {path}), then copy again: rsync -a GOOD_NODE:{path}/{file} {path}/",
    note="A file has N B, M B less (or more) than its header says; its header alone is larger; it begins with no "
    "header; or it is empty. A safetensors file's header says how long the file is: 8 + header + last offset.",
)


@rule(Section.MODEL, DAMAGED)
def model_damage(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Truncated files, files that are too long, and files without a valid header."""
    by_node = {name: damaged(files) for name, files in files_by_node(facts).items()}
    rows = {name: [f"{file} {what}" for file, what in found.items()] for name, found in by_node.items() if found}
    if rows:
        some = next(iter(next(found for found in by_node.values() if found)))
        yield DAMAGED.found(*rows, path=inventory.model.path, files=per_node(rows), file=some)
