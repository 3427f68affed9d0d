"""What the agent starts, each in a process of its own: `clusterctl_agent PROGRAM [--after=HOST:PORT] ARGV…`.

A child loads the modules that it will need before it is its turn: half of a join's time, and ten seconds of a server's
start.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import inspect
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .child import ALONE, BESIDE, GO, GO_BESIDE
from .hang import here
from .ray_cluster import PROBE, probe_ray, run_ray

SERVER_MODULES = ("vllm.entrypoints.cli.serve", "vllm.entrypoints.openai.api_server")
"""What `vllm serve` imports before it does anything (vLLM 0.32, entrypoints/cli/main.py)."""
MIDDLEWARE = tuple(f"{__package__}.clusterctl_middleware.{name}" for name in ("RefuseWhileDraining", "RequireKey"))
"""vLLM imports them by these names (0.32, entrypoints/openai/api_server.py); __main__.py says why it can."""
AFTER = "--after="
SOCKETS = ("vllm.entrypoints.launchers.launcher", "vllm.entrypoints.openai.api_server")
"""Where `create_server_socket` stands, which makes the API's socket (vLLM 0.32; versions before it)."""
MAKES = "create_server_socket"


def run_server(_: tuple[str, int] | None, argv: Sequence[str]) -> None:
    """HOST:PORT of the API, to be shared with the agent, or `-`; and the server's command, in this process: its modules
    are loaded at once, it runs when the gate has opened."""
    api, *argv = argv
    entries = list(importlib.metadata.entry_points(group="console_scripts", name=argv[0]))
    if not entries and shutil.which(argv[0]) is None:
        sys.exit(f"clusterctl: the image has no `{argv[0]}`")
    command = entries[0].load() if entries else None
    for module in SERVER_MODULES if command else ():
        with contextlib.suppress(ImportError):  # other versions of vLLM; the command itself will say what it lacks
            importlib.import_module(module)
    host, _sep, port = api.rpartition(":")
    os.write(0, BESIDE if host and can_share(host, int(port)) else ALONE)
    word = sys.stdin.buffer.readline()
    if word not in (GO, GO_BESIDE):
        sys.exit("clusterctl: the agent is gone")
    if word == GO_BESIDE:
        share(int(port))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if command is None:
        os.execvp(argv[0], list(argv))  # noqa: S606 (no shell: argv as configured)
    sys.argv = [*argv, *(word for each in MIDDLEWARE for word in ("--middleware", each))]
    sys.exit(command())


def can_share(host: str, port: int) -> bool:
    """Whether this version of vLLM makes a socket that can listen beside the agent's: it is tried. Another way to make
    one is not known to be shared, and then the agent leaves the port before the server needs it (unavailable.py)."""
    make = next((found for name in SOCKETS if (found := vars(sys.modules.get(name, object)).get(MAKES))), None)
    if make is None:
        return False
    bind = share(port)
    try:
        given = {"reuse_port": False} if "reuse_port" in inspect.signature(make).parameters else {}
        with make((host, port), **given) as made:
            return bool(made.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))
    except Exception:  # noqa: BLE001 (whatever another version does, the server starts, with the port to itself)
        return False
    finally:
        setattr(socket.socket, "bind", bind)  # noqa: B010 (a method)


def share(port: int) -> Callable[..., None]:
    """From now on, what this process binds to that port shares it with the agent. Returns what did it before."""
    before = socket.socket.bind

    def bind(self: socket.socket, address: Any, /) -> None:
        inet = self.family in (socket.AF_INET, socket.AF_INET6) and self.type == socket.SOCK_STREAM
        if inet and address[1] == port:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        before(self, address)

    setattr(socket.socket, "bind", bind)  # noqa: B010 (a method)
    return before


def run_probe(_: tuple[str, int] | None, argv: Sequence[str]) -> None:
    """ADDRESS PORT of Ray's control store."""
    probe_ray(argv[0], int(argv[1]))


def run_hang(_: tuple[str, int] | None, argv: Sequence[str]) -> None:
    """What everybody waits for, for `diagnose`: one JSON object."""
    sys.stdout.write(json.dumps(here()))


PROGRAMS: Mapping[str, Callable[[tuple[str, int] | None, Sequence[str]], None]] = {
    "server": run_server,
    "ray": run_ray,
    PROBE: run_probe,
    "hang": run_hang,
}
"""Name → what runs; given are the port that must answer first, if any, and the rest of the command line."""


def main(argv: Sequence[str]) -> None:
    """`PROGRAM [--after=HOST:PORT] ARGV…`."""
    program, *rest = argv
    after = None
    if rest and rest[0].startswith(AFTER):
        host, _, port = rest.pop(0).removeprefix(AFTER).rpartition(":")
        after = host, int(port)
    PROGRAMS[program](after, rest)
