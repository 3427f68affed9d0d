"""Digests of all bytes of the model's files, read by each node's own tool, all nodes at once (`check --full`).

The node keeps what it read in a file of its login's cache directory (scripts/model_bytes.sh), so that a second run
reads only what changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.model_files import ModelFiles
from clusterctl.hosts.host import Host, Hosts
from clusterctl.progress import Progress

SCRIPT = Path(__file__).with_name("scripts").joinpath("model_bytes.sh").read_bytes()
TICK_S = 5
"""The script says something at least that often."""

_TOTAL = re.compile(r"total (\d+) (\d+)")
_DONE = re.compile(r"done (\d+) ([0-9a-f]{64}) (.+)")


def with_digests(hosts: Hosts, path: str, facts: ClusterFacts, progress: Progress) -> ClusterFacts:
    """The facts, and digests of all bytes of the model in `path` on every node that has it."""
    models = {name: node.model for name, node in facts.nodes.items() if isinstance(node.model, ModelFiles)}
    tool = chosen_tool(models)
    if tool is None:
        without = Unknown("neither b3sum nor sha256sum is on every node")
        return replace(facts, digests=dict.fromkeys(models, without))
    progress.phase(f"reading all bytes of {path} ({tool})")
    outcomes = hosts.each(lambda host: _read(host, path, tool, progress), models)
    failed = {name: Unknown(error.message) for name, error in outcomes.errors.items()}
    return replace(facts, digests={name: failed.get(name) or outcomes.values[name] for name in models})


def chosen_tool(models: Mapping[str, ModelFiles]) -> str | None:
    """A tool that every node has: b3sum (several times faster), unless a cache's names say what SHA-256 to expect."""
    common = [tool for tool in ("b3sum", "sha256sum") if all(tool in files.tools for files in models.values())]
    if "sha256sum" in common and any(files.blobs for files in models.values()):
        return "sha256sum"
    return common[0] if common else None


def _read(host: Host, path: str, tool: str, progress: Progress) -> Mapping[str, str]:
    digests: dict[str, str] = {}
    files, total, read = 0, 0, 0
    silence_s = max(host.connection.command_timeout_s, 4 * TICK_S)
    for line in host.connection.lines(["sh", "-s", "--", path, tool], stdin=SCRIPT, silence_s=silence_s):
        if match := _TOTAL.fullmatch(line):
            files, total = int(match[1]), int(match[2])
        elif match := _DONE.fullmatch(line):
            digests[match[3]] = match[2]
            read += int(match[1])
            progress.detail(f"{host.name}: {len(digests)} of {files} files, {read / 1e9:.1f} of {total / 1e9:.1f} GB")
    return digests
