"""Control groups of the nodes' containers: all below one parent for each node, so that cleaning up is exact.

Both cgroup versions: version 1 has one tree per controller, version 2 a single one. What the engine leaves behind when
its node loses power are empty groups; they are removed bottom-up.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from clusterctl.errors import ClusterctlError

EMPTY_S = 10.0
"""How long a group may stay busy after its last process was killed."""


def remove(group: str) -> None:
    """Remove a group and everything below it in every hierarchy. Its processes must have ended."""
    deadline = time.monotonic() + EMPTY_S
    while remaining := existing(group):
        for tree in remaining:
            _remove_tree(tree)
        if time.monotonic() > deadline:
            raise ClusterctlError(f"control group {remaining[0]} is still in use after {EMPTY_S:g} s")
        if existing(group):
            time.sleep(0.02)


def existing(group: str) -> tuple[Path, ...]:
    """Directories of the group, one for each hierarchy that has it."""
    return tuple(path for path in (root / group.lstrip("/") for root in hierarchies()) if path.is_dir())


def hierarchies() -> tuple[Path, ...]:
    """Where control groups are mounted."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ", 1)[0] in ("cgroup", "cgroup2"):
            found.append(Path(before.split(" ")[4]))
    return tuple(found)


def remove_if_empty(group: str) -> None:
    """Remove a group if nothing is below it (the common parent of all labs)."""
    for path in existing(group):
        try:
            path.rmdir()
        except OSError:
            continue


def _remove_tree(tree: Path) -> None:
    for directory, _, _ in os.walk(tree, topdown=False):
        try:
            os.rmdir(directory)  # noqa: PTH106 (a group is removed by rmdir, its files are the kernel's)
        except OSError:
            continue  # busy for a moment, or gone: the caller looks again
