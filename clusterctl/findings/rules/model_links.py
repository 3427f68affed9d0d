"""Links that lead nowhere, on the node or in the container, which sees only model.path and container.volumes."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.model_files import ModelFiles
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.model import files_by_node, per_node
from clusterctl.inventory.model import Inventory

BROKEN = Code(
    name="model-link-broken",
    severity=ERROR,
    title="Links to nowhere",
    runbook="model.md",
    seen="links in {path} to files that are not there: {links}",
    why="a download was not finished, or only the links of a Hugging Face cache were copied",
    fix="download again, or copy what the links lead to: rsync -aL GOOD_NODE:{path}/ {path}/",
)
OUTSIDE = Code(
    name="model-link-outside",
    severity=ERROR,
    title="Links out of the container",
    runbook="model.md",
    seen="links in {path} lead out of what the container sees: {links}",
    why="only model.path and container.volumes are mounted: in the container these links lead nowhere",
    fix="mount the target too, container.volumes: [{target}:{target}:ro], or make a copy without links: "
    "cp -rL {path} /models/NAME",
    note="A snapshot of a Hugging Face cache is made of such links.",
)


@rule(Section.MODEL, BROKEN, OUTSIDE)
def model_links(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Links that lead nowhere, on the node or in the container."""
    path = inventory.model.path
    models = files_by_node(facts)
    dangling = {name: [f"{f} -> {m.links.get(f, '?')}" for f in m.dangling] for name, m in models.items() if m.dangling}
    if dangling:
        yield BROKEN.found(*dangling, path=path, links=per_node(dangling))
    mounted = (path, *(volume.split(":")[1] for volume in inventory.container.volumes if ":" in volume))
    outside = {name: _outside(path, files, mounted) for name, files in models.items()}
    outside = {name: rows for name, rows in outside.items() if rows}
    if outside:
        target = posixpath.dirname(next(iter(outside.values()))[0].rpartition(" -> ")[2])
        yield OUTSIDE.found(*outside, path=path, links=per_node(outside), target=target)


def _outside(path: str, files: ModelFiles, mounted: tuple[str, ...]) -> list[str]:
    if files.single is not None:
        return []  # the file itself is mounted, wherever its link leads
    rows = []
    for name, target in files.links.items():
        leads = posixpath.normpath(posixpath.join(path, target))
        inside = any(leads == place or leads.startswith(f"{place.rstrip('/')}/") for place in mounted)
        if not inside and name in files.sizes and name.endswith((".safetensors", ".json", ".model", ".bin")):
            rows.append(f"{name} -> {leads}")
    return rows
