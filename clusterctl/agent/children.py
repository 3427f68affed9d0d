"""What the agent starts: Ray, the server, and the probe of Ray's control store, each in a process of its own.

Sent with agent.py and like it: standard library only at the top, run by the image's own python3. A child loads the
modules that it will need before it is its turn: half of a join's time, and ten seconds of a server's start.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import shutil
import socket
import sys
import time
from pathlib import Path

GO = b"go\n"
"""What the server's process waits for on its stdin."""
SERVER_MODULES = ("vllm.entrypoints.cli.serve", "vllm.entrypoints.openai.api_server")
"""What `vllm serve` imports before it does anything (vLLM 0.32, entrypoints/cli/main.py)."""
MIDDLEWARE = ("clusterctl_middleware.RefuseWhileDraining", "clusterctl_middleware.RequireKey")
"""Beside this file, and so on this process's path of modules."""
WORKER_ACTOR_PREFIX = "vllm_Worker_"
"""vLLM names its Ray actors vllm_Worker_<id>_TP{t}_PP{p} (0.32, v1/executor/ray_utils.py)."""
PROBE_POLL_S = 0.2
"""Seconds between looks at Ray's control store: two small reads on loopback."""
POLL_S = 0.1
"""Seconds between looks at a port that is about to open; a refused connect costs microseconds."""
SESSIONS = Path("/tmp/ray")  # noqa: S108 (Ray's own place, in the container's own layer)
KEPT_SESSIONS = 2
"""Directories of earlier Ray sessions that stay for a diagnosis; each restart makes one more."""


def wait_for_gcs(address: str, port: int) -> None:
    """Return when Ray's control store accepts connections; who runs this decides how long to wait."""
    while True:
        try:
            socket.create_connection((address, port), timeout=2).close()
        except OSError:
            time.sleep(POLL_S)
        else:
            return


def remove_old_sessions() -> None:
    """Keep what healing leaves in the container's layer from growing without end."""
    sessions = sorted(SESSIONS.glob("session_*_*"), key=lambda path: path.name)
    for session in sessions[:-KEPT_SESSIONS]:
        shutil.rmtree(session, ignore_errors=True)


def run_ray(address: str, port: int, is_head: bool, argv: list[str]) -> None:
    """`ray ARGV` in this process, its modules loaded before the head is there: that is half of a join's time."""
    remove_old_sessions()
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="ray")
    command = entry.load()
    # Ray's client server is one more way to run code on the cluster, is not needed, and has no switch: `ray start
    # --head` opens port 10001 whenever its modules are there (Ray 2.60, scripts.py asks this function).
    sys.modules[entry.module].get_ray_client_dependency_error = lambda: "closed by clusterctl"  # type: ignore[attr-defined]
    if not is_head:
        wait_for_gcs(address, port)
    sys.argv = ["ray", *argv]
    sys.exit(command())


def run_server(argv: list[str]) -> None:
    """The server's command in this process: its modules are loaded at once, it runs when the gate has opened."""
    entries = list(importlib.metadata.entry_points(group="console_scripts", name=argv[0]))
    if not entries and shutil.which(argv[0]) is None:
        sys.exit(f"clusterctl: the image has no `{argv[0]}` (F20)")
    command = entries[0].load() if entries else None
    for module in SERVER_MODULES if command else ():
        with contextlib.suppress(ImportError):  # other versions of vLLM; the command itself will say what it lacks
            importlib.import_module(module)
    if sys.stdin.buffer.readline() != GO:
        sys.exit("clusterctl: the agent is gone")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if command is None:
        os.execvp(argv[0], argv)  # noqa: S606 (no shell: argv as configured)
    sys.argv = [*argv, *(word for each in MIDDLEWARE for word in ("--middleware", each))]
    sys.exit(command())


def probe_ray(address: str, port: int) -> None:
    """Print Ray's live nodes with their GPUs, and vLLM's workers with their nodes, whenever they change.

    One process for the container's whole life. It reads the control store as `ray status` does, and is no driver:
    `ray.init` would register a job, for which every node starts idle worker processes (Ray 2.60).
    """
    state_module = importlib.import_module("ray._private.state")
    options = importlib.import_module("ray._raylet").GcsClientOptions
    wait_for_gcs(address, port)
    state = state_module.GlobalState()
    state._initialize_global_state(
        options.create(f"{address}:{port}", None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False)
    )
    last = None
    while True:
        alive = [node for node in state.node_table() if node["Alive"]]
        seen = {
            "nodes": {node["NodeManagerAddress"]: node["Resources"].get("GPU", 0) for node in alive},
            # A node that came back counts twice until Ray has noticed that its former self is dead.
            "raylets": len(alive),
            "workers": {
                actor["Name"]: actor["Address"]["IPAddress"]
                for actor in state.actor_table(None, actor_state_name="ALIVE").values()
                if actor["Name"].startswith(WORKER_ACTOR_PREFIX)
            },
        }
        if seen != last:
            print(json.dumps(seen), flush=True)
            last = seen
        time.sleep(PROBE_POLL_S)


def main(argv: list[str]) -> None:
    """`children.py ray|probe ADDRESS PORT …`, `children.py server ARGV…`."""
    kind, *rest = argv
    if kind == "ray":
        run_ray(rest[0], int(rest[1]), rest[2] == "head", rest[3:])
    elif kind == "probe":
        probe_ray(rest[0], int(rest[1]))
    elif kind == "server":
        run_server(rest)


if __name__ == "__main__":
    main(sys.argv[1:])
