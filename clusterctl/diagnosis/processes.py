"""What the server's processes on a node do, and whether completions come: the agent's package is run for it in the
container (agent/inside/hang.py), and the kernel's stacks are read on the node.

The only thing that a diagnosis starts in a container: it looks, and ends within seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from clusterctl.agent import paths
from clusterctl.diagnosis.bundle import Store
from clusterctl.diagnosis.node import Limits, NodeCollection
from clusterctl.errors import ClusterctlError

LOOK = ("python3", paths.AGENT_PATH, "hang")
"""Prints what agent/inside/hang.py sees; takes seven seconds at most."""


STACK_FRAMES = 12


STACKS = """for p in "$@"; do
    echo "pid $(sed -n 's/^NSpid:.*[[:space:]]//p' "/proc/$p/status" 2>/dev/null)"
    cat "/proc/$p/stack" 2>/dev/null || $SUDO cat "/proc/$p/stack" 2>/dev/null || :
done"""


def processes_of(
    node: NodeCollection, container: str, inside: str, store: Store, limits: Limits, *, sudo: bool
) -> None:
    """Ask the agent's package in the container, which also asks NCCL, and the server for a token."""
    deadline, output = time.monotonic() + limits.item_s, b""
    command = node.host.engine.exec(container, LOOK, environment={}, stdin=False)
    try:
        output = b"".join(data for stream, data in command.pieces(deadline) if stream == "stdout")
        code = command.exit_code()
    finally:
        command.close()
    found = _object(output)
    if code or found is None:
        raise ClusterctlError(
            f"`{' '.join(LOOK)}` there ended with exit code {code}: is its agent of an older version?"
        )
    _with_stacks(node, container, found["processes"], limits.item_s, sudo=sudo)
    node.hangs[container] = _object(store.put_json(f"{inside}/hang.json", found)) or {}


def _with_stacks(
    node: NodeCollection, container: str, processes: Sequence[dict[str, Any]], timeout_s: float, *, sudo: bool
) -> None:
    """Kernel stacks from the node itself, where this login may read them: in a container nobody may."""
    wanted = {process["pid"]: process for process in processes if not process.get("stack")}
    pids = [str(pid) for pid in node.host.engine.pids(container)] if wanted else []
    script = f"SUDO='{'sudo -n' if sudo else 'command'}'\n{STACKS}"
    done = node.host.connection.run(["sh", "-c", script, "sh", *pids], timeout_s=timeout_s, read_only=True)
    for part in done.stdout.decode(errors="replace").split("pid ")[1:]:
        inner, *frames = part.splitlines()
        if inner.isdigit() and int(inner) in wanted:
            wanted[int(inner)]["stack"] = frames[:STACK_FRAMES] or None


def _object(text: str | bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
