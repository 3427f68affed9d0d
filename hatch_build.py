"""Build hook: wheel and sdist say which commit they were made from (clusterctl/commit.txt), the wheel what it needs."""

from __future__ import annotations

import json
import subprocess
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Commit, Component, ComponentScope, ComponentType, Pedigree
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FILE = "clusterctl/commit.txt"
SBOM = "clusterctl.cdx.json"
"""In the wheel's .dist-info/sboms/ (PEP 770), named as CycloneDX recommends (*.cdx.json)."""

EXTRAS = {"lab": ComponentScope.OPTIONAL}
"""Extras that a user may install. `dev` is for contributors, and is in nobody's installation."""


class BuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling finds it by `[tool.hatch.build.hooks.custom]`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the commit, unless it is there (a wheel from an sdist), or this is no checkout; and the SBOM."""
        if version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory()
        kept = Path(self.root, FILE)
        commit = kept.read_text(encoding="utf-8").strip() if kept.exists() else self._commit()
        if commit is not None and not kept.exists():
            build_data["force_include"][str(self._write("commit.txt", commit + "\n"))] = FILE
        if self.target_name == "wheel":
            core = self.metadata.core
            required = {None: core.dependencies, **{name: core.optional_dependencies[name] for name in EXTRAS}}
            text = sbom(core.name, self.metadata.version, core.license_expression, commit, required)
            build_data["sbom_files"].append(str(self._write(SBOM, text)))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was only made for the build."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()

    def _write(self, name: str, text: str) -> Path:
        path = Path(self._folder.name, name)
        path.write_text(text, encoding="utf-8")
        return path

    def _commit(self) -> str | None:
        argv = ["git", "-C", self.root, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None


def sbom(
    name: str, version: str, license_id: str, commit: str | None, required: Mapping[str | None, Sequence[str]]
) -> str:
    """A CycloneDX document of a package and what it requires, by extra (None: always), as declared, without versions.

    The same input gives the same bytes: the serial number is of the commit, and there is no time in it.
    """
    made_from = Pedigree(commits=[Commit(uid=commit)]) if commit else None
    main = Component(
        name=name,
        version=version,
        type=ComponentType.APPLICATION,
        licenses=[LicenseExpression(license_id)],
        purl=PackageURL("pypi", name=name, version=version),
        bom_ref=name,
        pedigree=made_from,
    )
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"{main.purl}#{commit}"))
    bom.metadata.component = main
    needed = [_needed(line, extra) for extra, lines in required.items() for line in lines]
    bom.components.update(needed)
    bom.register_dependency(main, needed)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["metadata"]["timestamp"]
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _needed(line: str, extra: str | None) -> Component:
    name = canonicalize_name(Requirement(line).name)
    return Component(
        name=name,
        type=ComponentType.LIBRARY,
        scope=EXTRAS[extra] if extra else ComponentScope.REQUIRED,
        purl=PackageURL("pypi", name=name),
        bom_ref=name,
        description=f"declared as {line}" + (f" [{extra}]" if extra else ""),
    )
