"""What the agent starts, each in a process of its own: `clusterctl_agent PROGRAM [--after=HOST:PORT] ARGV…`.

A child loads the modules that it will need before it is its turn: half of a join's time, and ten seconds of a server's
start.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence

from .child import GO
from .ray_cluster import PROBE, probe_ray, run_ray

SERVER_MODULES = ("vllm.entrypoints.cli.serve", "vllm.entrypoints.openai.api_server")
"""What `vllm serve` imports before it does anything (vLLM 0.32, entrypoints/cli/main.py)."""
MIDDLEWARE = tuple(f"{__package__}.clusterctl_middleware.{name}" for name in ("RefuseWhileDraining", "RequireKey"))
"""vLLM imports them by these names (0.32, entrypoints/openai/api_server.py); __main__.py says why it can."""
AFTER = "--after="


def run_server(_: tuple[str, int] | None, argv: Sequence[str]) -> None:
    """The server's command in this process: its modules are loaded at once, it runs when the gate has opened."""
    entries = list(importlib.metadata.entry_points(group="console_scripts", name=argv[0]))
    if not entries and shutil.which(argv[0]) is None:
        sys.exit(f"clusterctl: the image has no `{argv[0]}`")
    command = entries[0].load() if entries else None
    for module in SERVER_MODULES if command else ():
        with contextlib.suppress(ImportError):  # other versions of vLLM; the command itself will say what it lacks
            importlib.import_module(module)
    if sys.stdin.buffer.readline() != GO:
        sys.exit("clusterctl: the agent is gone")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if command is None:
        os.execvp(argv[0], list(argv))  # noqa: S606 (no shell: argv as configured)
    sys.argv = [*argv, *(word for each in MIDDLEWARE for word in ("--middleware", each))]
    sys.exit(command())


def run_probe(_: tuple[str, int] | None, argv: Sequence[str]) -> None:
    """ADDRESS PORT of Ray's control store."""
    probe_ray(argv[0], int(argv[1]))


PROGRAMS: Mapping[str, Callable[[tuple[str, int] | None, Sequence[str]], None]] = {
    "server": run_server,
    "ray": run_ray,
    PROBE: run_probe,
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
