"""`python -m clusterctl.lab`: the lab's commands by themselves."""

from __future__ import annotations

import sys

from clusterctl.errors import ClusterctlError
from clusterctl.lab.cli import lab

if __name__ == "__main__":
    try:
        lab()
    except ClusterctlError as error:
        print(f"error: {error.message}" + (f"\nfix: {error.hint}" if error.hint else ""), file=sys.stderr)
        sys.exit(error.exit_code)
