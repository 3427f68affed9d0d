"""Every weight file that the index, or another node, names is there."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.model_formats import asked
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.model import absent_shards, files_by_node, listed, wanted_shards
from clusterctl.inventory.model import Inventory

WITHOUT_WEIGHTS = frozenset({"dummy", "runai_streamer", "runai_streamer_sharded", "tensorizer"})
"""vLLM load formats that read no weight files, or read them elsewhere."""

MISSING = Code(
    name="model-shard-missing",
    severity=ERROR,
    title="Weight files are missing",
    runbook="model.md",
    seen="{path} lacks {files} ({missing} of {wanted} weight files){_unfinished}",
    why="loading fails on this node after the others have loaded",
    fix="copy the missing files: rsync -a GOOD_NODE:{path}/ {path}/",
    note="Required is what the index of the format that vLLM loads names (`model.safetensors.index.json`, "
    "`consolidated.safetensors.index.json`, `pytorch_model.bin.index.json`), what another node has, and without an "
    "index all parts of `…-00001-of-00003…`. An unfinished download in the directory is mentioned.",
)
NO_WEIGHTS = MISSING.variant(
    seen="{path} holds no weight files (*.safetensors, *.bin, *.pt, *.gguf)",
    why="vLLM has nothing to load on this node",
    fix="copy the model: rsync -a GOOD_NODE:{path}/ {path}/; or set serve.options.load-format: dummy",
)


@rule(Section.MODEL, MISSING, NO_WEIGHTS)
def model_shards(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Every weight file that the index, or another node, names is there."""
    path = inventory.model.path
    models = files_by_node(facts)
    said = asked(inventory.serve.options)
    for name, files in models.items():
        if not _needs_weights(inventory):
            continue
        if absent := absent_shards(models, files, said):
            rest = f"; an unfinished download is there: {listed(files.unfinished)}" if files.unfinished else ""
            yield MISSING.found(
                name,
                path=path,
                files=listed(absent),
                missing=len(absent),
                wanted=len(wanted_shards(models, files, said)),
                _unfinished=rest,
            )
        elif not (files.weights or files.dangling):
            yield NO_WEIGHTS.found(name, path=path)


def _needs_weights(inventory: Inventory) -> bool:
    return inventory.serve.options.get("load-format") not in WITHOUT_WEIGHTS
