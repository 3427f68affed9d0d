"""The command line starts without what a command needs only when it runs: --help and completion are instant."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("docker", "fabric", "paramiko", "pydantic", "httpx", "requests", "rich", "jinja2", "yaml", "asyncio")
"""Half a second together, measured with `python -X importtime`."""


@pytest.mark.parametrize(
    "argv", [["--help"], ["--version"], ["check", "--help"], ["exec", "--help"], ["lab", "up", "--help"]], ids=" ".join
)
def test_help_loads_nothing_heavy(argv: list[str]) -> None:
    script = (
        "import sys\nfrom clusterctl.cli import main\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        f"print('LOADED', *[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.split() == ["LOADED"], "import it inside the command's function (see cli/common.py)"
