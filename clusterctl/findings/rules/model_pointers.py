"""Git LFS pointers where the files should be."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.model import files_by_node, per_node
from clusterctl.inventory.model import Inventory

POINTERS = Code(
    name="model-lfs-pointer",
    severity=ERROR,
    title="Git LFS pointers",
    runbook="model.md",
    seen="Git LFS pointers instead of files in {path}: {files}",
    why="the repository was cloned without its large files: loading fails with HeaderTooLarge or not JSON",
    fix="on the node: git -C {path} lfs pull; or from a node that has it: rsync -a GOOD_NODE:{path}/ {path}/",
)


@rule(Section.MODEL, POINTERS)
def model_pointers(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Git LFS pointers where the files should be."""
    found = {name: list(files.pointers) for name, files in files_by_node(facts).items() if files.pointers}
    if found:
        yield POINTERS.found(*found, path=inventory.model.path, files=per_node(found))
