"""Build hook: the wheel and the sdist say which commit they were made from (clusterctl/commit.txt)."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILE = "clusterctl/commit.txt"


class CommitHook(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling finds it by `[tool.hatch.build.hooks.custom]`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the file, unless it is there (a wheel from an sdist), or this is no checkout."""
        if version == "editable" or Path(self.root, FILE).exists():
            return
        commit = self._commit()
        if commit is not None:
            self._folder = tempfile.TemporaryDirectory()
            path = Path(self._folder.name, "commit.txt")
            path.write_text(commit + "\n", encoding="utf-8")
            build_data["force_include"][str(path)] = FILE

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was only made for the build."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()

    def _commit(self) -> str | None:
        argv = ["git", "-C", self.root, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None
