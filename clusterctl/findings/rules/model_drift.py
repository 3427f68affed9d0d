"""The model is the same on every node: revisions, small files, headers, sizes, bytes. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.model_files import WEIGHTS, ModelFiles
from clusterctl.facts.safetensors import Header, Tensor
from clusterctl.findings.finding import Finding, Severity
from clusterctl.findings.rules.common import minority
from clusterctl.findings.rules.model import TOKENIZERS, damaged, files_by_node, has_tokenizer, listed, per_node
from clusterctl.inventory.model import Inventory

CONFIG = "config.json"

Groups = Mapping[Hashable, list[str]]


def drift(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """One finding, the gravest: other tensors, else another configuration, else other small files (F38)."""
    models = files_by_node(facts)
    tensors = _other_tensors(models)
    configs = differing(models, {CONFIG}, _config)
    small = differing(models, _small(models), _digest)
    revisions = _by(models, lambda files: files.revision)
    sizes = differing(models, {file for files in models.values() for file in files.weights}, _size)
    if tensors:
        also = [*(f"{file} differs too" for file in (*configs, *small)), *_revisions(revisions)]
        yield _revision_differs(inventory, models, tensors, also)
    elif configs:
        yield _config_differs(inventory, models, configs[CONFIG], tuple(small), _revisions(revisions))
    elif small or len(revisions) > 1:
        yield _files_differ(inventory, small, revisions)
    if sizes and not tensors:
        yield from _sizes_differ(inventory, models, tuple(sizes))


def differing(
    models: Mapping[str, ModelFiles], names: set[str], value: Callable[[ModelFiles, str], Hashable]
) -> dict[str, Groups]:
    """Files of which nodes say different things, each with its groups; a node that says nothing (None) is left out."""
    found: dict[str, Groups] = {}
    for name in sorted(names):
        groups = _by(models, lambda files, name=name: value(files, name))  # type: ignore[misc]
        if len(groups) > 1:
            found[name] = groups
    return found


def _by(models: Mapping[str, ModelFiles], value: Callable[[ModelFiles], Hashable]) -> Groups:
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for node, files in models.items():
        said = value(files)
        if said is not None:
            groups[said].append(node)
    return groups


def _other_tensors(models: Mapping[str, ModelFiles]) -> dict[str, Groups]:
    """Shards whose tensors have other names, dtypes or shapes on some nodes. Metadata may differ: it is not loaded."""
    found: dict[str, Groups] = {}
    for file in sorted({file for files in models.values() for file in files.headers}):
        kinds: list[Mapping[str, Tensor]] = []
        groups: dict[Hashable, list[str]] = defaultdict(list)
        for node, files in models.items():
            header = files.headers.get(file)
            if isinstance(header, Header):
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
    """Small files that are compared. An index says only where tensors are, which the headers say better."""
    names = {name for files in models.values() if isinstance(files.digests, Mapping) for name in files.digests}
    return names - {CONFIG, "model.safetensors.index.json"}


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


def _odd(differences: Mapping[str, Groups]) -> tuple[str, ...]:
    """Nodes that stand outside the largest group for any of the files, in the order in which they are met."""
    return tuple(dict.fromkeys(node for groups in differences.values() for node in minority(groups)))


def _revision_differs(
    inventory: Inventory, models: Mapping[str, ModelFiles], tensors: Mapping[str, Groups], also: list[str]
) -> Finding:
    path = inventory.model.path
    file, groups = next(iter(tensors.items()))
    headers = [models[nodes[0]].headers[file] for nodes in groups.values()]
    kinds = [header.tensors for header in headers if isinstance(header, Header)]
    others = {name for kind in kinds for name in kind if any(other.get(name) != kind[name] for other in kinds)}
    more = "".join(f"; {said}" for said in also)
    return Finding(
        "model-revision-differs",
        Severity.ERROR,
        _odd(tensors),
        f"{path} is not the same model everywhere: other tensors in {listed(list(tensors))} "
        f"(in {file}: {listed(sorted(others))}){more}",
        "the stages would hold parts of different models: odd shapes or wrong output (F38)",
        f"copy the whole directory from one node: rsync -a --delete GOOD_NODE:{path}/ {path}/",
    )


def _config_differs(
    inventory: Inventory, models: Mapping[str, ModelFiles], groups: Groups, small: tuple[str, ...], also: list[str]
) -> Finding:
    configs = [models[nodes[0]].config for nodes in groups.values()]
    first, *others = [config for config in configs if isinstance(config, Mapping)]
    keys = sorted({k for other in others for k in {*first, *other} if not _same(first, other, k)})
    more = [f"{listed(list(small))} too"] if small else []
    rest = "".join(f"; {said}" for said in (*more, *also))
    return Finding(
        "model-config-differs",
        Severity.ERROR,
        minority(groups),
        f"{inventory.model.path}/config.json differs between nodes in: {', '.join(keys)}{rest}",
        "the nodes would build different models (F38)",
        "copy the whole model directory from one node to the others",
    )


def _files_differ(inventory: Inventory, small: Mapping[str, Groups], revisions: Groups) -> Finding:
    path = inventory.model.path
    shown = [f"{file} ({_where(groups)})" for file, groups in small.items()]
    seen = [f"{path}: {listed(shown)} differ between nodes"] if small else []
    if not small:
        seen.append(f"{path}: headers and small files are alike, the weights themselves were not compared")
    return Finding(
        "model-files-differ",
        Severity.WARNING,
        _odd({**small, **({"revision": revisions} if len(revisions) > 1 else {})}),
        "; ".join([*seen, *_revisions(revisions)]),
        "perhaps two revisions of the model (F38): what the head has decides the tokens and the chat template",
        f"clusterctl check --full compares all bytes; or copy the whole directory: rsync -a GOOD_NODE:{path}/ {path}/",
    )


def _where(groups: Groups) -> str:
    rows = [f"{', '.join(nodes)} {'has none' if said == 'absent' else str(said)[:8]}" for said, nodes in groups.items()]
    return "; ".join(rows)


def _sizes_differ(inventory: Inventory, models: Mapping[str, ModelFiles], names: tuple[str, ...]) -> Iterator[Finding]:
    for file in names:
        having = {name: files.sizes[file] for name, files in models.items() if file in files.sizes}
        yield Finding(
            "model-shard-differs",
            Severity.ERROR,
            tuple(having),
            f"{inventory.model.path}/{file} has different sizes: {', '.join(f'{n} {s} B' for n, s in having.items())}",
            "a truncated or different file fails to load, or loads another model's weights (F37, F38)",
            f"compare with the source and copy it again: rsync -a GOOD_NODE:{inventory.model.path}/{file} "
            f"{inventory.model.path}/",
        )


def bytes_differ(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """All bytes, where they were read (`check --full`): between nodes, and against a Hugging Face cache's own names."""
    path = inventory.model.path
    read = facts.digests or {}
    for name, said in read.items():
        if isinstance(said, Unknown):
            yield Finding(
                "model-bytes-unknown",
                Severity.WARNING,
                (name,),
                f"the bytes of {path} were not read to the end: {said.reason}",
                "what was not read was not compared",
                "log in to the node, repeat what failed (named above) to see why, then run clusterctl check again",
            )
    known = {name: said for name, said in read.items() if isinstance(said, Mapping)}
    odd = {file: groups for file in sorted(_weights(known)) if len(groups := _by_digest(known, file)) > 1}
    blobs = {name: files.blobs for name, files in files_by_node(facts).items()}
    wrong = {name: [f for f, d in said.items() if blobs[name].get(f, d) != d] for name, said in known.items()}
    wrong = {name: files for name, files in wrong.items() if files}
    if odd or wrong:
        shown = [f"{file} ({_where(groups)})" for file, groups in odd.items()]
        between = [f"bytes differ between nodes in {listed(shown)}"] if odd else []
        named = [f"not the SHA-256 that the cache names them by: {per_node(wrong)}"] if wrong else []
        yield Finding(
            "model-bytes-differ",
            Severity.ERROR,
            tuple(wrong) or _odd(odd),
            f"{path}: {'; '.join((*between, *named))}",
            "same names and sizes, other weights: a damaged copy or another revision gives wrong output (F38)",
            f"find out which one is right (the source's SHA-256), then: rsync -a --checksum GOOD_NODE:{path}/ {path}/",
        )


def _weights(known: Mapping[str, Mapping[str, str]]) -> set[str]:
    """Files with weights; what the small ones say is compared in every check."""
    return {file for said in known.values() for file in said if file.endswith(WEIGHTS)}


def _by_digest(known: Mapping[str, Mapping[str, str]], file: str) -> Groups:
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for name, said in known.items():
        if file in said:
            groups[said[file]].append(name)
    return groups


def _same(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> bool:
    """Whether both say the same of a key, as _freeze tells values apart: null is not absent, 1 is not true."""
    return (key in one) == (key in other) and _freeze(one.get(key)) == _freeze(other.get(key))


def _freeze(value: Any) -> Hashable:
    if isinstance(value, Mapping):
        return tuple(sorted((key, _freeze(item)) for key, item in value.items()))
    if isinstance(value, list):
        return tuple(_freeze(item) for item in value)
    return (type(value).__name__, value)
