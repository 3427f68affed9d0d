"""The model's files on each node: there, whole, readable in the container. Pure; one small function a rule."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.model_files import ModelFiles, header_length
from clusterctl.facts.safetensors import Header
from clusterctl.findings.finding import Finding, Severity
from clusterctl.inventory.model import Inventory

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt", "tekken.json", "spiece.model", "merges.txt")
"""One of these is a tokenizer (transformers' and mistral-common's names); so are *.tiktoken and tokenization_*.py."""

WITHOUT_WEIGHTS = frozenset({"dummy", "gguf", "runai_streamer", "runai_streamer_sharded", "tensorizer"})
"""vLLM load formats that read no weight files, or read them elsewhere."""

SHOWN = 4
"""Names in one message; the number of the others follows."""


def files_by_node(facts: ClusterFacts) -> dict[str, ModelFiles]:
    """Nodes whose directory could be listed."""
    return {name: node.model for name, node in facts.nodes.items() if isinstance(node.model, ModelFiles)}


def listed(rows: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    return ", ".join(rows[:SHOWN]) + (f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else "")


def per_node(said: Mapping[str, list[str]]) -> str:
    """«gpu1, gpu2: FILES; gpu3: OTHERS»: nodes with the same list share it."""
    nodes: dict[str, list[str]] = defaultdict(list)
    for name, rows in said.items():
        nodes[listed(rows)].append(name)
    return "; ".join(f"{', '.join(names)}: {rows}" for rows, names in nodes.items())


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
            yield _unread(name, node.model.reason)
        else:
            if node.model.unread:
                yield _unread(name, "; ".join(node.model.unread))
            if not isinstance(node.model.config, Mapping) and not _points(node.model, "config.json"):
                yield _no_config(path, name, node.model)


def _unread(name: str, reason: str) -> Finding:
    return Finding(
        "model-unknown",
        Severity.WARNING,
        (name,),
        reason,
        "what could not be read was not checked; the container may still read it",
        "log in to the node, repeat what failed (named above) to see why, then run clusterctl check again",
    )


def _no_config(path: str, name: str, files: ModelFiles) -> Finding:
    if files.snapshots and files.config is None:
        seen = f"{path} is a Hugging Face cache's folder of a model: it holds revisions ({listed(files.snapshots)})"
        fix = f"set model.path to one of them: {path}/snapshots/{files.snapshots[0]}"
    else:
        what = f"config.json: {files.config.reason}" if isinstance(files.config, Unknown) else "has no config.json"
        seen, fix = f"{path} {what}", f"copy the model again: rsync -a GOOD_NODE:{path}/ {path}/"
    return Finding("model-config", Severity.ERROR, (name,), seen, "vLLM reads the architecture from it (F36)", fix)


def _points(files: ModelFiles, name: str) -> bool:
    """Whether another finding says what is wrong with this file: a pointer, or a link to nothing."""
    return name in files.pointers or name in files.dangling


def pointers(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Git LFS pointers where the files should be (F37)."""
    found = {name: list(files.pointers) for name, files in files_by_node(facts).items() if files.pointers}
    if found:
        path = inventory.model.path
        yield Finding(
            "model-lfs-pointer",
            Severity.ERROR,
            tuple(found),
            f"Git LFS pointers instead of files in {path}: {per_node(found)}",
            "the repository was cloned without its large files: loading fails with HeaderTooLarge or not JSON (F37)",
            f"on the node: git -C {path} lfs pull; or from a node that has it: rsync -a GOOD_NODE:{path}/ {path}/",
        )


def links(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Links that lead nowhere, on the node or in the container, which sees only model.path and container.volumes."""
    path = inventory.model.path
    models = files_by_node(facts)
    dangling = {name: [f"{f} -> {m.links.get(f, '?')}" for f in m.dangling] for name, m in models.items() if m.dangling}
    if dangling:
        yield Finding(
            "model-link-broken",
            Severity.ERROR,
            tuple(dangling),
            f"links in {path} to files that are not there: {per_node(dangling)}",
            "a download was not finished, or only the links of a Hugging Face cache were copied (F37, F39)",
            f"download again, or copy what the links lead to: rsync -aL GOOD_NODE:{path}/ {path}/",
        )
    mounted = (path, *(volume.split(":")[1] for volume in inventory.container.volumes if ":" in volume))
    outside = {name: _outside(path, files, mounted) for name, files in models.items()}
    outside = {name: rows for name, rows in outside.items() if rows}
    if outside:
        target = posixpath.dirname(next(iter(outside.values()))[0].rpartition(" -> ")[2])
        yield Finding(
            "model-link-outside",
            Severity.ERROR,
            tuple(outside),
            f"links in {path} lead out of what the container sees: {per_node(outside)}",
            "only model.path and container.volumes are mounted: in the container these links lead nowhere (F36)",
            f"mount the target too, container.volumes: [{target}:{target}:ro], or make a copy without links: "
            f"cp -rL {path} /models/NAME",
        )


def _outside(path: str, files: ModelFiles, mounted: tuple[str, ...]) -> list[str]:
    rows = []
    for name, target in files.links.items():
        leads = posixpath.normpath(posixpath.join(path, target))
        inside = any(leads == place or leads.startswith(f"{place.rstrip('/')}/") for place in mounted)
        if not inside and name in files.sizes and name.endswith((".safetensors", ".json", ".model", ".bin")):
            rows.append(f"{name} -> {leads}")
    return rows


def shards(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Every shard that the index, or another node, names is there (F37)."""
    path = inventory.model.path
    models = files_by_node(facts)
    for name, files in models.items():
        wanted = _wanted(models, files)
        if absent := _absent(models, files):
            left = f"; an unfinished download is there: {listed(files.unfinished)}" if files.unfinished else ""
            yield Finding(
                "model-shard-missing",
                Severity.ERROR,
                (name,),
                f"{path} lacks {listed(absent)} ({len(absent)} of {len(wanted)} weight files){left}",
                "loading fails on this node after the others have loaded (F37)",
                f"copy the missing files: rsync -a GOOD_NODE:{path}/ {path}/",
            )
        elif not (files.weights or files.dangling) and _needs_weights(inventory):
            yield Finding(
                "model-shard-missing",
                Severity.ERROR,
                (name,),
                f"{path} holds no weight files (*.safetensors, *.bin, *.pt)",
                "vLLM has nothing to load on this node (F37)",
                f"copy the model: rsync -a GOOD_NODE:{path}/ {path}/; or set serve.options.load-format: dummy",
            )


def _wanted(models: Mapping[str, ModelFiles], files: ModelFiles) -> set[str]:
    """Shards that a node must have: those that any node has, and those that its own index names."""
    indexed = files.index_shards if isinstance(files.index_shards, tuple) else ()
    return {file for other in models.values() for file in other.shards} | set(indexed)


def _absent(models: Mapping[str, ModelFiles], files: ModelFiles) -> list[str]:
    """Shards that it lacks. A link to nowhere has a finding of its own."""
    return sorted(_wanted(models, files) - files.sizes.keys() - set(files.dangling))


def _needs_weights(inventory: Inventory) -> bool:
    return inventory.serve.options.get("load-format") not in WITHOUT_WEIGHTS


def unfinished(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """What a download left that was cut off, or that still runs."""
    models = files_by_node(facts)
    found = {n: list(f.unfinished) for n, f in models.items() if f.unfinished and not _absent(models, f)}
    if found:
        yield Finding(
            "model-download-unfinished",
            Severity.WARNING,
            tuple(found),
            f"an unfinished download in {inventory.model.path}: {per_node(found)}",
            "files may still be missing or change (F37); what is there was checked as it is now",
            "wait for the download or start it again; when the model is whole, remove these files",
        )


def damaged(files: ModelFiles) -> dict[str, str]:
    """Files that are not what their own first bytes say: file → what is wrong with it."""
    found: dict[str, str] = {}
    for name in files.shards:
        size, said = files.sizes[name], files.headers.get(name)
        length = header_length(files.starts.get(name, b""), size) if name in files.starts or size == 0 else 0
        if _points(files, name):
            continue
        if isinstance(length, str):
            found[name] = length
        elif isinstance(said, Header) and said.file_bytes != size:
            amount = said.file_bytes - size
            found[name] = f"has {size} B, {abs(amount)} B {'less' if amount > 0 else 'more'} than its header says"
        elif isinstance(said, Unknown):
            found[name] = f"has no readable header: {said.reason}"
    found |= {name: "is empty" for name, size in files.sizes.items() if size == 0 and _read(name)}
    return found


def _read(name: str) -> bool:
    """Whether vLLM reads it when it is there (config.json has a finding of its own)."""
    return name.endswith((".json", ".model", ".bin")) and name != "config.json"


def damage(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Truncated files, files that are too long, and headers that are none (F37)."""
    path = inventory.model.path
    said = {name: damaged(files) for name, files in files_by_node(facts).items()}
    rows = {name: [f"{file} {what}" for file, what in found.items()] for name, found in said.items() if found}
    if rows:
        some = next(iter(next(found for found in said.values() if found)))
        yield Finding(
            "model-file-damaged",
            Severity.ERROR,
            tuple(rows),
            f"damaged files in {path}: {per_node(rows)}",
            "a copy was cut off or went wrong: loading fails with MetadataIncompleteBuffer or HeaderTooLarge (F37)",
            f"look at the space left (df -h {path}), then copy again: rsync -a GOOD_NODE:{path}/{some} {path}/",
        )


def tokenizer(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """A tokenizer beside the weights, unless another one, or none, is asked for."""
    options = inventory.serve.options
    if options.get("skip-tokenizer-init") or options.get("tokenizer"):
        return
    without = [n for n, f in files_by_node(facts).items() if isinstance(f.config, Mapping) and not has_tokenizer(f)]
    if without:
        path = inventory.model.path
        yield Finding(
            "model-tokenizer-missing",
            Severity.ERROR,
            tuple(without),
            f"{path} has no tokenizer (none of tokenizer.json, tokenizer.model, vocab.json with merges.txt)",
            "the server turns text into tokens with it and does not start without one",
            f"copy it from a node that has it, or from the model's source: rsync -a GOOD_NODE:{path}/ {path}/",
        )


def has_tokenizer(files: ModelFiles) -> bool:
    """Whether a file is there that transformers or mistral-common would take for a tokenizer."""
    names = {*files.sizes, *files.dangling}  # a link to nowhere has a finding of its own
    own = any(name.endswith(".tiktoken") or name.startswith("tokenization_") for name in names)
    return own or any(name in names for name in TOKENIZERS)


def unverified(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Weights in formats whose files do not say how large they should be."""
    found = {n: list(f.weights) for n, f in files_by_node(facts).items() if f.weights and not f.shards}
    if found:
        yield Finding(
            "model-unverified",
            Severity.WARNING,
            tuple(found),
            f"weights in {inventory.model.path} that do not say how large they should be: {per_node(found)}",
            "only safetensors files can be checked in seconds; of others only sizes were compared between nodes",
            "clusterctl check --full compares all bytes between the nodes",
        )
