"""The model's files. Pure; one small function a rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from clusterctl.facts.model import ClusterFacts, ModelFiles, Unknown
from clusterctl.findings.finding import Finding, Severity
from clusterctl.findings.rules.common import minority, unknown
from clusterctl.inventory.model import Inventory


def model(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The model's directory is at the same path on every node and holds a configuration (F36)."""
    path = inventory.model.path
    for name, node in facts.nodes.items():
        if node.model is None:
            yield Finding(
                "model-missing",
                Severity.ERROR,
                (name,),
                f"{path} does not exist on the node",
                "every node loads its part of the model from that path (F36)",
                f"copy it from a node that has it: rsync -a GOOD_NODE:{path}/ {path}/",
            )
        elif isinstance(node.model, Unknown):
            yield unknown("model-unknown", name, node.model)
        elif not isinstance(node.model.config, Mapping):
            what = "has no config.json" if node.model.config is None else f"config.json: {node.model.config.reason}"
            yield Finding(
                "model-config",
                Severity.ERROR,
                (name,),
                f"{path} {what}",
                "vLLM reads the architecture from it",
                f"copy the model again: rsync -a GOOD_NODE:{path}/ {path}/",
            )


def shards(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Every shard that the index, or another node, names is there, with the same size (F37)."""
    path = inventory.model.path
    models = {name: node.model for name, node in facts.nodes.items() if isinstance(node.model, ModelFiles)}
    elsewhere: dict[str, set[int]] = defaultdict(set)
    for files in models.values():
        for file, size in files.sizes.items():
            if file.endswith(".safetensors"):
                elsewhere[file].add(size)
    for name, files in models.items():
        indexed = files.index_shards if isinstance(files.index_shards, tuple) else ()
        absent = sorted(file for file in {*indexed, *elsewhere} if file not in files.sizes)
        if absent:
            yield Finding(
                "model-shard-missing",
                Severity.ERROR,
                (name,),
                f"{path} lacks {', '.join(absent[:4])}{' …' if len(absent) > 4 else ''} "
                f"({len(absent)} of {len({*indexed, *elsewhere})} weight files)",
                "loading fails on this node after the others have loaded (F37)",
                f"copy the missing files: rsync -a GOOD_NODE:{path}/ {path}/",
            )
    for file, sizes in sorted(elsewhere.items()):
        if len(sizes) > 1:
            shown = ", ".join(f"{name} {files.sizes[file]} B" for name, files in models.items() if file in files.sizes)
            yield Finding(
                "model-shard-differs",
                Severity.ERROR,
                tuple(name for name, files in models.items() if file in files.sizes),
                f"{path}/{file} has different sizes: {shown}",
                "a truncated or different file fails to load, or loads another model's weights (F37, F38)",
                f"compare with the source and copy it again: rsync -a GOOD_NODE:{path}/{file} {path}/",
            )


def config_differs(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """config.json says the same on every node (F38)."""
    groups: dict[Hashable, list[str]] = defaultdict(list)
    values: dict[Hashable, Mapping[str, Any]] = {}
    for name, node in facts.nodes.items():
        if isinstance(node.model, ModelFiles) and isinstance(node.model.config, Mapping):
            key = _freeze(node.model.config)
            groups[key].append(name)
            values[key] = node.model.config
    if len(groups) > 1:
        first, *others = values.values()
        keys = sorted({k for other in others for k in {*first, *other} if not _same(first, other, k)})
        yield Finding(
            "model-config-differs",
            Severity.ERROR,
            minority(groups),
            f"{inventory.model.path}/config.json differs between nodes in: {', '.join(keys)}",
            "the nodes would build different models (F38)",
            "copy the whole model directory from one node to the others",
        )


def _same(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> bool:
    """Whether both say the same of a key, as _freeze tells values apart: null is not absent, 1 is not true."""
    return (key in one) == (key in other) and _freeze(one.get(key)) == _freeze(other.get(key))


def _freeze(value: Any) -> Hashable:
    if isinstance(value, Mapping):
        return tuple(sorted((key, _freeze(item)) for key, item in value.items()))
    if isinstance(value, list):
        return tuple(_freeze(item) for item in value)
    return (type(value).__name__, value)
