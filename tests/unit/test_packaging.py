"""What is installed is what is in the repository: in a wheel, in an editable install, in a plain checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
RENDER = """
from clusterctl.rendering import render, templates_dir
from clusterctl.facts.gather import PROBE
from clusterctl.agent.paths import SOURCES
assert PROBE and SOURCES and all(source.read_text() for source in SOURCES.values())
import clusterctl
print(clusterctl.__file__)
print(render("vllm.yaml.j2", model_path="/m", served_name="m", host="h", port=1,
             options={"max-model-len": 7}))
"""

COMMIT = "commit.txt"
"""Beside the code of what was built from a checkout."""

SBOM = "sboms/clusterctl.cdx.json"
"""In .dist-info (PEP 770)."""

hatchling = pytest.importorskip("hatchling.build", reason="hatchling, the build backend, is not installed")


def made(folder: Path, kind: str, root: Path = ROOT) -> Path:
    """A wheel or sdist, made as pip makes it."""
    script = f"import hatchling.build, sys; print(hatchling.build.{kind}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], cwd=root, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


def built(folder: Path, kind: str) -> Path:
    """A wheel, unpacked."""
    made(folder, kind)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("wheel"), "build_wheel")


def python(script: str, path: Path | str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(path)},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.endswith((".pyc", ".new"))
    }


def test_the_wheel_has_every_template_and_every_file_of_the_package(wheel: Path) -> None:
    assert files(wheel / "clusterctl" / "templates") == files(ROOT / "templates")
    in_wheel = {name for name in files(wheel / "clusterctl") if not name.startswith("templates/")} - {COMMIT}
    assert in_wheel == files(ROOT / "clusterctl")
    assert {"agent/inside/agent.py", "py.typed", "lab/image/install.sh"} <= in_wheel
    assert any(name.startswith("facts/") and name.endswith(".sh") for name in in_wheel), "the probe"


def test_the_wheel_has_nothing_else(wheel: Path) -> None:
    top = {path.name.split("-")[0] for path in wheel.iterdir()}
    assert top == {"clusterctl"}


def test_the_wheels_command_is_the_command_line(wheel: Path) -> None:
    (entry_points,) = wheel.glob("*.dist-info/entry_points.txt")
    assert "clusterctl = clusterctl.cli:main" in entry_points.read_text(encoding="utf-8")
    (metadata,) = wheel.glob("*.dist-info/METADATA")
    version = python("import clusterctl; print(clusterctl.__version__)", wheel, wheel.parent).strip()
    assert f"\nVersion: {version}\n" in metadata.read_text(encoding="utf-8")


def sbom_of(wheel: Path) -> dict[str, Any]:
    (path,) = wheel.glob(f"*.dist-info/{SBOM}")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def test_the_wheels_sbom_is_valid_cyclonedx(wheel: Path) -> None:
    (path,) = wheel.glob(f"*.dist-info/{SBOM}")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(path.read_text(encoding="utf-8")) is None


def test_the_wheels_sbom_names_the_package_and_everything_that_it_requires(wheel: Path) -> None:
    found = sbom_of(wheel)
    (metadata,) = wheel.glob("*.dist-info/METADATA")
    said = message_from_string(metadata.read_text(encoding="utf-8"))
    main = found["metadata"]["component"]
    assert (main["name"], main["version"]) == ("clusterctl", said["Version"])
    assert main["purl"] == f"pkg:pypi/clusterctl@{said['Version']}"
    assert [each["expression"] for each in main["licenses"]] == [said["License-Expression"]]
    wanted = [Requirement(line) for line in said.get_all("Requires-Dist", [])]
    users = {each.name: each for each in wanted if each.marker is None or each.marker.evaluate({"extra": "lab"})}
    assert {each["purl"] for each in found["components"]} == {f"pkg:pypi/{canonicalize_name(name)}" for name in users}
    optional = {each["name"] for each in found["components"] if each["scope"] == "optional"}
    assert optional == {canonicalize_name(each.name) for each in users.values() if each.marker is not None}
    (edges,) = (each["dependsOn"] for each in found["dependencies"] if each["ref"] == "clusterctl")
    assert set(edges) == {each["bom-ref"] for each in found["components"]}


def test_the_sbom_names_the_commit_and_has_no_time(clone: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(made(tmp_path, "build_wheel", clone)) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(SBOM))
        found = json.loads(archive.read(name))
    assert found["metadata"]["component"]["pedigree"]["commits"] == [{"uid": commit_of(clone)}]
    assert "timestamp" not in found["metadata"]


def test_rules_are_found_in_a_wheel(wheel: Path) -> None:
    explained = python("from clusterctl.findings.explain import explain; print(explain('image-absent'))", wheel, wheel)
    assert explained.startswith("image-absent: ")


def test_rendering_from_a_wheel(wheel: Path, tmp_path: Path) -> None:
    where, rendered = python(RENDER, wheel, tmp_path).split("\n", 1)
    assert Path(where).is_relative_to(wheel)
    assert "max-model-len: 7" in rendered


def test_rendering_from_an_editable_install(tmp_path: Path) -> None:
    (pth,) = built(tmp_path, "build_editable").glob("*.pth")
    path = pth.read_text(encoding="utf-8").strip()
    where, rendered = python(RENDER, path, tmp_path).split("\n", 1)
    assert Path(where).is_relative_to(ROOT)
    assert "max-model-len: 7" in rendered


def test_rendering_from_a_plain_checkout(tmp_path: Path) -> None:
    for folder in ("clusterctl", "templates"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    where, rendered = python(RENDER, tmp_path, tmp_path).split("\n", 1)
    assert Path(where).is_relative_to(tmp_path)
    assert "max-model-len: 7" in rendered


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of what is in this one, committed."""
    root = tmp_path_factory.mktemp("clone")
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    author = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.com")
    for argv in (["init", "-q"], ["add", "-A"], [*author, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *argv], cwd=root, check=True, capture_output=True)
    return root


def commit_of(root: Path) -> str:
    argv = ["git", "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(argv, cwd=root, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("kind", ["build_wheel", "build_sdist"])
def test_two_builds_of_a_commit_are_the_same_bytes(clone: Path, tmp_path: Path, kind: str) -> None:
    first = made(tmp_path / "one", kind, clone)
    for path in clone.rglob("*.py"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    second = made(tmp_path / "two", kind, clone)
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


def test_a_wheel_from_the_sdist_is_the_wheel_from_the_checkout(clone: Path, tmp_path: Path) -> None:
    sdist = made(tmp_path / "sdist", "build_sdist", clone)
    shutil.unpack_archive(sdist, tmp_path / "unpacked", "gztar", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    from_sdist = made(tmp_path / "one", "build_wheel", unpacked)
    from_checkout = made(tmp_path / "two", "build_wheel", clone)
    assert contents(from_sdist) == contents(from_checkout)


def contents(wheel: Path) -> dict[str, bytes]:
    """Name -> content; but for the list of their digests, whose order is not said."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def test_the_version_names_the_commit(clone: Path, tmp_path: Path) -> None:
    commit = commit_of(clone)
    wheel = made(tmp_path, "build_wheel", clone)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    run = "import sys; sys.argv = ['clusterctl', '--version']; from clusterctl.cli import main; main()"
    assert python(run, tmp_path / "unpacked", tmp_path).strip().endswith(f"(commit {commit})")
    assert python(run, clone, tmp_path).strip().endswith(f"(commit {commit})")
    (clone / "README.md").write_text("changed", encoding="utf-8")
    try:
        assert python(run, clone, tmp_path).strip().endswith(f"(commit {commit}-dirty)")
    finally:
        subprocess.run(["git", "checkout", "-q", "README.md"], cwd=clone, check=True)
    shutil.copytree(clone / "clusterctl", tmp_path / "plain" / "clusterctl")
    assert "commit" not in python(run, tmp_path / "plain", tmp_path)


def test_release_notes_are_the_newest_section_of_the_changelog(tmp_path: Path) -> None:
    log = tmp_path / "CHANGELOG.md"
    log.write_text("# Changelog\n\nWords.\n\n## [2.0]\n\n### Added\n\n- new\n\n## [1.0]\n\n- old\n", encoding="utf-8")

    def notes(*more: str) -> str:
        argv = ["make", "-s", "release-notes", *more]
        return subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True, timeout=20).stdout

    assert notes(f"CHANGELOG={log}") == "## [2.0]\n\n### Added\n\n- new\n\n"
    assert notes().startswith("## [")
