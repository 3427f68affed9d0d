"""The model's directory is at the same path on every node and holds a configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.model_files import ModelFiles
from clusterctl.findings.code import ERROR, WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.model import listed, points
from clusterctl.findings.topics.nodes import UNREAD_FIX
from clusterctl.inventory.model import Inventory

MISSING = Code(
    name="model-missing",
    severity=ERROR,
    title="The model is missing",
    runbook="model.md",
    seen="{path} does not exist on the node",
    why="every node loads its part of the model from that path",
    fix="copy it from a node that has it: rsync -a GOOD_NODE:{path}/ {path}/",
)
NO_CONFIG = Code(
    name="model-config",
    severity=ERROR,
    title="No usable config.json",
    runbook="model.md",
    seen="{path} has no config.json",
    why="vLLM reads the architecture from it",
    fix="copy the model again: rsync -a GOOD_NODE:{path}/ {path}/",
)
UNREADABLE_CONFIG = NO_CONFIG.variant(seen="{path} config.json: {reason}")
CACHE_FOLDER = NO_CONFIG.variant(
    seen="{path} is a Hugging Face cache's folder of a model: it holds revisions ({revisions})",
    fix="set model.path to one of them: {path}/snapshots/{revision}",
)
UNKNOWN = Code(
    name="model-unknown",
    severity=WARNING,
    title="The model cannot be read",
    runbook="model.md",
    seen="{reason}",
    why="what could not be read was not checked; the container may still read it",
    fix=UNREAD_FIX,
    note="The reason is why the model's directory, or something in it, could not be read.",
)


@rule(Section.MODEL, MISSING, NO_CONFIG, UNREADABLE_CONFIG, CACHE_FOLDER, UNKNOWN)
def model_directory(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The model's directory is at the same path on every node and holds a configuration."""
    path = inventory.model.path
    for name, node in facts.nodes.items():
        if node.model is None:
            yield MISSING.found(name, path=path)
        elif isinstance(node.model, Unknown):
            yield UNKNOWN.found(name, reason=node.model.reason)
        else:
            if node.model.unread:
                yield UNKNOWN.found(name, reason="; ".join(node.model.unread))
            if not isinstance(node.model.config, Mapping) and not points(node.model, "config.json"):
                yield _no_config(path, name, node.model)


def _no_config(path: str, name: str, files: ModelFiles) -> Finding:
    if files.snapshots and files.config is None:
        return CACHE_FOLDER.found(name, path=path, revisions=listed(files.snapshots), revision=files.snapshots[0])
    if isinstance(files.config, Unknown):
        return UNREADABLE_CONFIG.found(name, path=path, reason=files.config.reason)
    return NO_CONFIG.found(name, path=path)
