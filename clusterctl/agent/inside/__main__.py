"""`python3 /opt/clusterctl/clusterctl_agent`: the agent. With arguments, one of its children: PROGRAM ARGV…

Python puts this directory first in the path of modules; in its place goes the one above it, in which there is nothing
but this package. So no file here can hide a module of the image's, and `clusterctl_agent.…` can be imported by name, in
processes that a child spawns too. PYTHONPATH would do it for every process of the container, and replace the image's.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> int | None:
    """Run what the command line names."""
    folder = Path(__file__).resolve().parent
    sys.path[0], package = str(folder.parent), folder.name
    if len(sys.argv) > 1:
        importlib.import_module(f"{package}.children").main(sys.argv[1:])
        return None
    return int(importlib.import_module(f"{package}.agent").main())


if __name__ == "__main__":
    sys.exit(main())
