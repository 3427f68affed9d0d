"""`clusterctl --version`: the version, and the commit that it was built from, or that this checkout is at."""

from __future__ import annotations

from pathlib import Path

import click

from clusterctl import __version__
from clusterctl.cli.common import PROGRAM, echo

PACKAGE = Path(__file__).resolve().parents[1]
GIT_S = 5


def print_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    """Print it, and end."""
    if wanted and not context.resilient_parsing:
        commit = built_from(PACKAGE) or checked_out(PACKAGE.parent)
        echo(f"{PROGRAM}, version {__version__}" + (f" (commit {commit})" if commit else ""))
        context.exit()


def built_from(package: Path) -> str | None:
    """The commit that the build wrote beside the code (hatch_build.py)."""
    try:
        return (package / "commit.txt").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def checked_out(root: Path) -> str | None:
    """The commit of a checkout; None where the code lies in none, or git cannot say."""
    import subprocess

    if not (root / ".git").exists():
        return None
    argv = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=GIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
