"""The model's files on each node, and in what they differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.gguf import Gguf
from clusterctl.facts.model_files import ModelFiles, header_length
from clusterctl.facts.model_formats import Asked, loaded, wanted
from clusterctl.facts.safetensors import Header
from clusterctl.findings.topics.nodes import minority

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt", "tekken.json", "spiece.model", "merges.txt")
"""One of these is a tokenizer (transformers' and mistral-common's names); so are *.tiktoken and tokenization_*.py."""

SHOWN = 4
"""Names in one message; the number of the others follows."""

Groups = Mapping[Hashable, list[str]]
"""What nodes have → the nodes that have it."""


def files_by_node(facts: ClusterFacts) -> dict[str, ModelFiles]:
    """Nodes whose directory could be listed."""
    return {name: node.model for name, node in facts.nodes.items() if isinstance(node.model, ModelFiles)}


def listed(rows: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    return ", ".join(rows[:SHOWN]) + (f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else "")


def per_node(by_node: Mapping[str, list[str]]) -> str:
    """`gpu1, gpu2: FILES; gpu3: OTHERS`: nodes with the same list share it."""
    nodes: dict[str, list[str]] = defaultdict(list)
    for name, rows in by_node.items():
        nodes[listed(rows)].append(name)
    return "; ".join(f"{', '.join(names)}: {rows}" for rows, names in nodes.items())


def points(files: ModelFiles, name: str) -> bool:
    """Whether another finding reports this file: it is a pointer, or a link to nothing."""
    return name in files.pointers or name in files.dangling


def wanted_shards(models: Mapping[str, ModelFiles], files: ModelFiles, said: Asked) -> set[str]:
    """Files with weights that a node must have: those that any node loads, those that its own index names, and all
    parts of what is numbered."""
    return {file for other in models.values() for file in loaded(other, said)} | wanted(files, said)


def absent_shards(models: Mapping[str, ModelFiles], files: ModelFiles, said: Asked) -> list[str]:
    """Those that it lacks. A link to nowhere has a finding of its own."""
    return sorted(wanted_shards(models, files, said) - files.sizes.keys() - set(files.dangling))


def damaged(files: ModelFiles) -> dict[str, str]:
    """Files that are not what their own first bytes say: file → what is wrong with it."""
    found: dict[str, str] = {}
    for name in files.shards:
        size, header = files.sizes[name], files.headers.get(name)
        length = header_length(files.starts.get(name, b""), size) if name in files.starts or size == 0 else 0
        if points(files, name):
            continue
        if isinstance(length, str):
            found[name] = length
        elif isinstance(header, Header) and header.file_bytes != size:
            amount = header.file_bytes - size
            found[name] = f"has {size} B, {abs(amount)} B {'less' if amount > 0 else 'more'} than its header says"
        elif isinstance(header, Unknown):
            found[name] = f"has no readable header: {header.reason}"
    found |= _damaged_ggufs(files)
    found |= {name: "is empty" for name, size in files.sizes.items() if size == 0 and _read(name)}
    return found


def _damaged_ggufs(files: ModelFiles) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, header in files.ggufs.items():
        size = files.sizes.get(name, 0)
        if points(files, name) or not size:
            continue
        if isinstance(header, Gguf) and size < header.file_bytes:
            found[name] = f"has {size} B, {header.file_bytes - size} B less than its header says"
        elif isinstance(header, Unknown):
            found[name] = f"has no readable header: {header.reason}"
    return found


def _read(name: str) -> bool:
    """Whether vLLM reads it when it is there (a configuration has a finding of its own)."""
    return name.endswith((".json", ".model", ".bin", ".gguf")) and name not in ("config.json", "params.json")


def has_tokenizer(files: ModelFiles) -> bool:
    """Whether a file is there that transformers or mistral-common would take for a tokenizer."""
    names = {*files.sizes, *files.dangling}  # a link to nowhere has a finding of its own
    # tokenizer.model.v3 and the like are mistral-common's.
    own = any(name.endswith(".tiktoken") or name.startswith(("tokenization_", "tokenizer.model")) for name in names)
    return own or any(name in names for name in TOKENIZERS)


def odd_nodes(differences: Mapping[str, Groups]) -> tuple[str, ...]:
    """Nodes that stand outside the largest group for any of the files, in the order in which they are met."""
    return tuple(dict.fromkeys(node for groups in differences.values() for node in minority(groups)))


def by_value(groups: Groups) -> str:
    """Each node with the beginning of what it has: `gpu1 0123abcd; gpu2 has none`."""
    rows = [
        f"{', '.join(nodes)} {'has none' if value == 'absent' else str(value)[:8]}" for value, nodes in groups.items()
    ]
    return "; ".join(rows)
