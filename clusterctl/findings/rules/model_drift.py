"""The model is the same on every node: revisions, small files, headers, sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.gguf import Gguf
from clusterctl.facts.model_files import ModelFiles
from clusterctl.facts.safetensors import Header, Tensor
from clusterctl.findings.code import ERROR, WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.model import (
    TOKENIZERS,
    Groups,
    by_value,
    damaged,
    files_by_node,
    has_tokenizer,
    listed,
    odd_nodes,
)
from clusterctl.findings.topics.nodes import minority
from clusterctl.inventory.model import Inventory

CONFIG = "config.json"

OTHER_REVISION = Code(
    name="model-revision-differs",
    severity=ERROR,
    title="Another revision",
    runbook="model.md",
    seen="{path} is not the same model everywhere: other tensors in {files} (in {file}: {tensors}){_more}",
    why="the stages would hold parts of different models: wrong shapes or wrong output",
    fix="copy the whole directory from one node: rsync -a --delete GOOD_NODE:{path}/ {path}/",
    note="What else differs follows.",
)
OTHER_CONFIG = Code(
    name="model-config-differs",
    severity=ERROR,
    title="config.json differs",
    runbook="model.md",
    seen="{path}/config.json differs between nodes in: {keys}{_more}",
    why="the nodes would build different models",
    fix="copy the whole model directory from one node to the others",
    note="Other small files that differ too follow.",
)
OTHER_FILES = Code(
    name="model-files-differ",
    severity=WARNING,
    title="Small files differ",
    runbook="model.md",
    seen="{path}: {files} differ between nodes{_more}",
    why="perhaps two revisions of the model: the head's files decide the tokens and the chat template",
    fix="clusterctl check --full compares all bytes; or copy the whole directory: rsync -a GOOD_NODE:{path}/ {path}/",
    note="Each file with the nodes and the beginning of its SHA-256; or the nodes have other revisions of a Hugging "
    "Face cache.",
)
OTHER_COMMIT = OTHER_FILES.variant(
    seen="{path}: headers and small files are alike, the weights themselves were not compared{_more}"
)
OTHER_SIZE = Code(
    name="model-shard-differs",
    severity=ERROR,
    title="Weight files differ",
    runbook="model.md",
    seen="{path}/{file} has different sizes: {sizes}",
    why="a truncated or different file fails to load, or loads another model's weights",
    fix="compare with the source and copy it again: rsync -a GOOD_NODE:{path}/{file} {path}/",
    note="Checked for weights that do not say how large they should be.",
)


@rule(Section.MODEL, OTHER_REVISION, OTHER_CONFIG, OTHER_FILES, OTHER_COMMIT, OTHER_SIZE)
def model_drift(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """One finding, the gravest: other tensors, else another configuration, else other small files."""
    path = inventory.model.path
    models = files_by_node(facts)
    tensors = _other_tensors(models)
    configs = differing(models, {CONFIG}, _config)
    small = differing(models, _small(models), _digest)
    revisions = _by(models, lambda files: files.revision)
    sizes = differing(models, {file for files in models.values() for file in files.weights}, _size)
    if tensors:
        also = [*(f"{file} differs too" for file in (*configs, *small)), *_revisions(revisions)]
        yield _revision_differs(path, models, tensors, also)
    elif configs:
        yield _config_differs(path, models, configs[CONFIG], tuple(small), _revisions(revisions))
    elif small or len(revisions) > 1:
        yield _files_differ(path, small, revisions)
    if sizes and not tensors:
        yield from _sizes_differ(path, models, tuple(sizes))


def differing(
    models: Mapping[str, ModelFiles], names: set[str], value: Callable[[ModelFiles, str], Hashable]
) -> dict[str, Groups]:
    """Files that are not the same on all nodes, each with its groups; a node without a value (None) is left out."""
    found: dict[str, Groups] = {}
    for name in sorted(names):
        groups = _by(models, lambda files, name=name: value(files, name))  # type: ignore[misc]
        if len(groups) > 1:
            found[name] = groups
    return found


def _by(models: Mapping[str, ModelFiles], value: Callable[[ModelFiles], Hashable]) -> Groups:
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for node, files in models.items():
        read = value(files)
        if read is not None:
            groups[read].append(node)
    return groups


def _other_tensors(models: Mapping[str, ModelFiles]) -> dict[str, Groups]:
    """Shards whose tensors have other names, dtypes or shapes on some nodes. Metadata may differ: it is not loaded."""
    found: dict[str, Groups] = {}
    for file in sorted({file for files in models.values() for file in (*files.headers, *files.ggufs)}):
        kinds: list[Mapping[str, Tensor]] = []
        groups: dict[Hashable, list[str]] = defaultdict(list)
        for node, files in models.items():
            header = files.headers.get(file) or files.ggufs.get(file)
            if isinstance(header, Header | Gguf):
                # Nodes with equal digests share one object: mostly there is nothing to compare.
                known = [i for i, kind in enumerate(kinds) if kind is header.tensors or kind == header.tensors]
                kinds += [] if known else [header.tensors]
                groups[known[0] if known else len(kinds) - 1].append(node)
        if len(groups) > 1:
            found[file] = groups
    return found


def _size(files: ModelFiles, name: str) -> Hashable:
    wrong = name in files.pointers or name in damaged(files)
    return None if wrong else files.sizes.get(name)


def _small(models: Mapping[str, ModelFiles]) -> set[str]:
    """Small files that are compared. An index only locates tensors, which the headers do better."""
    names = {name for files in models.values() if isinstance(files.digests, Mapping) for name in files.digests}
    return {name for name in names if name != CONFIG and not name.endswith(".index.json")}


def _digest(files: ModelFiles, name: str) -> Hashable:
    if not isinstance(files.digests, Mapping) or name in files.pointers or files.sizes.get(name) == 0:
        return None
    if name not in files.digests and name in TOKENIZERS and not has_tokenizer(files):
        return None  # it has no tokenizer at all, which is a finding of its own
    return files.digests.get(name, "absent")


def _config(files: ModelFiles, name: str) -> Hashable:
    return _freeze(files.config) if isinstance(files.config, Mapping) else None


def _revisions(groups: Groups) -> list[str]:
    if len(groups) < 2:
        return []
    return ["revisions: " + ", ".join(f"{', '.join(nodes)} {str(commit)[:12]}" for commit, nodes in groups.items())]


def _more(rows: list[str]) -> str:
    return "".join(f"; {row}" for row in rows)


def _revision_differs(
    path: str, models: Mapping[str, ModelFiles], tensors: Mapping[str, Groups], also: list[str]
) -> Finding:
    file, groups = next(iter(tensors.items()))
    first = [models[nodes[0]] for nodes in groups.values()]
    headers = [files.headers.get(file) or files.ggufs.get(file) for files in first]
    kinds = [header.tensors for header in headers if isinstance(header, Header | Gguf)]
    others = {name for kind in kinds for name in kind if any(other.get(name) != kind[name] for other in kinds)}
    return OTHER_REVISION.found(
        *odd_nodes(tensors),
        path=path,
        files=listed(list(tensors)),
        file=file,
        tensors=listed(sorted(others)),
        _more=_more(also),
    )


def _config_differs(
    path: str, models: Mapping[str, ModelFiles], groups: Groups, small: tuple[str, ...], also: list[str]
) -> Finding:
    configs = [models[nodes[0]].config for nodes in groups.values()]
    first, *others = [config for config in configs if isinstance(config, Mapping)]
    keys = sorted({k for other in others for k in {*first, *other} if not _same(first, other, k)})
    files = [f"{listed(list(small))} too"] if small else []
    return OTHER_CONFIG.found(*minority(groups), path=path, keys=", ".join(keys), _more=_more([*files, *also]))


def _files_differ(path: str, small: Mapping[str, Groups], revisions: Groups) -> Finding:
    shown = [f"{file} ({by_value(groups)})" for file, groups in small.items()]
    code = OTHER_FILES if small else OTHER_COMMIT
    nodes = odd_nodes({**small, **({"revision": revisions} if len(revisions) > 1 else {})})
    return code.found(*nodes, path=path, files=listed(shown), _more=_more(_revisions(revisions)))


def _sizes_differ(path: str, models: Mapping[str, ModelFiles], names: tuple[str, ...]) -> Iterator[Finding]:
    for file in names:
        having = {name: files.sizes[file] for name, files in models.items() if file in files.sizes}
        sizes = ", ".join(f"{node} {size} B" for node, size in having.items())
        yield OTHER_SIZE.found(*having, path=path, file=file, sizes=sizes)


def _same(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> bool:
    """Whether both have the same value of a key, as _freeze tells values apart: null is not absent, 1 is not true."""
    return (key in one) == (key in other) and _freeze(one.get(key)) == _freeze(other.get(key))


def _freeze(value: Any) -> Hashable:
    if isinstance(value, Mapping):
        return tuple(sorted((key, _freeze(item)) for key, item in value.items()))
    if isinstance(value, list):
        return tuple(_freeze(item) for item in value)
    return (type(value).__name__, value)
