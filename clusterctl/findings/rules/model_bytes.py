"""All bytes, where they were read (`check --full`): between nodes, and against a Hugging Face cache's own names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.model_files import WEIGHTS
from clusterctl.findings.code import ERROR, WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.model import Groups, by_value, files_by_node, listed, odd_nodes, per_node
from clusterctl.findings.topics.nodes import UNREAD_FIX
from clusterctl.inventory.model import Inventory

ONLY_FULL = "Only with `check --full`."

DIFFER = Code(
    name="model-bytes-differ",
    severity=ERROR,
    title="Bytes differ",
    runbook="model.md",
    seen="{path}: {differences}",
    why="same names and sizes, other weights: a damaged copy or another revision gives wrong output",
    fix="find out which one is right (the source's SHA-256), then: rsync -a --checksum GOOD_NODE:{path}/ {path}/",
    note=f"The differences are `bytes differ between nodes in FILES`, or `not the SHA-256 that the cache names "
    f"them by: NODE: FILES`. {ONLY_FULL}",
)
UNKNOWN = Code(
    name="model-bytes-unknown",
    severity=WARNING,
    title="Bytes could not be read",
    runbook="model.md",
    seen="the bytes of {path} were not read to the end: {reason}",
    why="what was not read was not compared",
    fix=UNREAD_FIX,
    note=ONLY_FULL,
)


@rule(Section.MODEL, DIFFER, UNKNOWN)
def model_bytes(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """All bytes, where they were read: between nodes, and against a Hugging Face cache's own names."""
    path = inventory.model.path
    read = facts.digests or {}
    for name, digests in read.items():
        if isinstance(digests, Unknown):
            yield UNKNOWN.found(name, path=path, reason=digests.reason)
    known = {name: digests for name, digests in read.items() if isinstance(digests, Mapping)}
    odd = {file: groups for file in sorted(_weights(known)) if len(groups := _by_digest(known, file)) > 1}
    blobs = {name: files.blobs for name, files in files_by_node(facts).items()}
    wrong = {name: [f for f, d in digests.items() if blobs[name].get(f, d) != d] for name, digests in known.items()}
    wrong = {name: files for name, files in wrong.items() if files}
    if odd or wrong:
        shown = [f"{file} ({by_value(groups)})" for file, groups in odd.items()]
        between = [f"bytes differ between nodes in {listed(shown)}"] if odd else []
        named = [f"not the SHA-256 that the cache names them by: {per_node(wrong)}"] if wrong else []
        yield DIFFER.found(*(tuple(wrong) or odd_nodes(odd)), path=path, differences="; ".join((*between, *named)))


def _weights(known: Mapping[str, Mapping[str, str]]) -> set[str]:
    """Files with weights; the small ones are compared in every check."""
    return {file for digests in known.values() for file in digests if file.endswith(WEIGHTS)}


def _by_digest(known: Mapping[str, Mapping[str, str]], file: str) -> Groups:
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for name, digests in known.items():
        if file in digests:
            groups[digests[file]].append(name)
    return groups
