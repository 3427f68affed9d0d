"""The model's directory is at the same path on every node and holds a configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.model_files import ModelFiles
from clusterctl.facts.model_formats import (
    HF_CONFIG,
    MISTRAL_CONFIG,
    Asked,
    asked,
    config_format,
    config_of,
    has_consolidated,
)
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
    title="No usable configuration",
    runbook="model.md",
    seen="{path} has no {file}",
    why="vLLM reads the architecture from it",
    fix="copy the model again: rsync -a GOOD_NODE:{path}/ {path}/",
    note="The file is config.json, params.json (Mistral's own format, with `consolidated*.safetensors`), or either. A "
    "GGUF file holds its configuration itself.",
)
UNREADABLE_CONFIG = NO_CONFIG.variant(seen="{path} {file}: {reason}")
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
    path, said = inventory.model.path, asked(inventory.serve.options)
    for name, node in facts.nodes.items():
        if node.model is None:
            yield MISSING.found(name, path=path)
        elif isinstance(node.model, Unknown):
            yield UNKNOWN.found(name, reason=node.model.reason)
        else:
            if node.model.unread:
                yield UNKNOWN.found(name, reason="; ".join(node.model.unread))
            yield from _configuration(path, name, node.model, said)


def _configuration(path: str, name: str, files: ModelFiles, said: Asked) -> Iterator[Finding]:
    config, kind = config_of(files, said), config_format(files, said)
    file = MISTRAL_CONFIG if kind == "mistral" else HF_CONFIG
    if isinstance(config, Mapping) or kind == "gguf" or points(files, file):
        return  # a GGUF file that cannot be read is damaged, which is a finding of its own
    if files.snapshots and config is None:
        yield CACHE_FOLDER.found(name, path=path, revisions=listed(files.snapshots), revision=files.snapshots[0])
    elif isinstance(config, Unknown):
        yield UNREADABLE_CONFIG.found(name, path=path, file=file, reason=config.reason)
    elif said.config == "auto" and HF_CONFIG not in files.sizes and has_consolidated(files):
        yield NO_CONFIG.found(name, path=path, file=f"{MISTRAL_CONFIG} and no {HF_CONFIG}")
    else:
        yield NO_CONFIG.found(name, path=path, file=file)
