"""Whole headers of safetensors and GGUF files, asked of as few nodes as possible.

The probe sends of every node only the headers' lengths and one digest over them (a large model's headers have
megabytes). Nodes with equal ones have equal headers, so one of them is asked for the headers themselves.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path

from clusterctl.errors import ClusterctlError
from clusterctl.facts.cluster import NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.gguf import Gguf, gguf
from clusterctl.facts.model_files import ModelFiles, header_length
from clusterctl.facts.safetensors import Header, header
from clusterctl.hosts.host import Host, Hosts

SCRIPT = Path(__file__).with_name("scripts").joinpath("model_headers.sh").read_bytes()
MAX_BYTES = 512 * 1024 * 1024
"""Headers of one model, decompressed; the largest known (91,000 tensors) have 12 MB."""

Headers = Mapping[str, Header | Gguf | Unknown]


def with_headers(hosts: Hosts, path: str, nodes: Mapping[str, NodeFacts]) -> dict[str, NodeFacts]:
    """The facts, with the headers of every node's safetensors files in `path`: one more round trip, to one node a
    group."""
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for name, node in nodes.items():
        if isinstance(node.model, ModelFiles) and readable(node.model):
            groups[_group(name, node.model)].append(name)
    asked = {names[0]: names for names in groups.values()}
    outcomes = hosts.each(lambda host: _ask(host, path, nodes[host.name]), asked)
    found: dict[str, NodeFacts] = dict(nodes)
    for first, names in asked.items():
        answer = outcomes.values[first] if first in outcomes.values else Unknown(outcomes.errors[first].message)
        for name in names:
            model = nodes[name].model
            if isinstance(model, ModelFiles):
                headers = dict.fromkeys(readable(model), answer) if isinstance(answer, Unknown) else answer
                found[name] = replace(nodes[name], model=with_those(model, headers))
    return found


def with_those(model: ModelFiles, headers: Headers) -> ModelFiles:
    """The files with their headers, each kind in its place."""
    ggufs = {name: said for name, said in headers.items() if name.endswith(".gguf") and not isinstance(said, Header)}
    others = {name: said for name, said in headers.items() if name not in ggufs and not isinstance(said, Gguf)}
    return replace(model, headers=others, ggufs=ggufs)


def readable(model: ModelFiles) -> tuple[str, ...]:
    """Files whose header can be read at all, judged by their first bytes and size."""
    starts, sizes = model.starts, model.sizes
    tensors = [name for name in model.shards if isinstance(header_length(starts.get(name, b""), sizes[name]), int)]
    return (*tensors, *(name for name in sorted(sizes) if name.endswith(".gguf") and sizes[name]))


def _group(name: str, model: ModelFiles) -> Hashable:
    """Nodes of one group have equal headers; one whose digest is not known stands for itself."""
    if not isinstance(model.headers_digest, str):
        return name
    return model.headers_digest, readable(model), tuple(sorted(model.starts.items()))


def _ask(host: Host, path: str, node: NodeFacts) -> Headers | Unknown:
    names = readable(node.model) if isinstance(node.model, ModelFiles) else ()
    if not names:
        return {}
    try:
        done = host.connection.run(["sh", "-s", "--", path, *names], stdin=SCRIPT, read_only=True)
    except ClusterctlError as error:
        return Unknown(error.message)
    return split(done.stdout)


def split(output: bytes) -> Headers | Unknown:
    """Headers by file, from what the script printed, compressed or not."""
    try:
        plain = zlib.decompressobj(31).decompress(output, MAX_BYTES) if output[:2] == b"\x1f\x8b" else output
    except zlib.error as error:
        return Unknown(f"the headers came back damaged ({error})")
    found: dict[str, Header | Gguf | Unknown] = {}
    position = 0
    while (end := plain.find(b"\n", position)) >= 0:
        length, _, name = plain[position:end].partition(b" ")
        if not length.isdigit():
            return Unknown("the headers came back damaged")
        position = end + 1 + int(length)
        read = gguf if name.endswith(b".gguf") else header
        found[name.decode(errors="replace")] = read(plain[end + 1 : position])
    return found
