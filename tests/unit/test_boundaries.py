"""One door per dependency, and pure code that cannot do anything: kept by reading every import."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "clusterctl"
IN_THE_IMAGE = "lab/image/"
"""Files below it run in the lab's image, beside torch and vLLM."""
SOURCES = [
    path.relative_to(PACKAGE).as_posix()
    for path in sorted(PACKAGE.rglob("*.py"))
    if not path.relative_to(PACKAGE).as_posix().startswith(IN_THE_IMAGE)
]

DOORS = {
    "fabric": {"hosts/ssh/"},
    "invoke": {"hosts/ssh/"},
    "cryptography": {"hosts/ssh/"},
    "paramiko": {"hosts/connection.py", "hosts/local/", "hosts/ssh/", "hosts/engine/", "hosts/http.py"},
    "docker": {"hosts/engine/"},
    "requests": {"hosts/engine/"},
    "urllib3": {"hosts/engine/"},
    "httpx": {"hosts/http.py", "hosts/host.py", "status/server.py", "status/asking.py"},
    "httpcore": {"hosts/http.py"},
    "jinja2": {"rendering.py"},
    "prometheus_client": {"status/server.py"},
    "rich": {"ui/"},
}
"""Module → the files (or folders) that may import it."""

PURE = (
    *("planning/", "findings/", "inventory/", "facts/fact.py", "facts/records.py"),
    *("facts/cluster.py", "facts/parse.py", "deployment/", "diagnosis/causes.py", "diagnosis/evidence.py"),
    *(f"diagnosis/causes_{of}.py" for of in ("agents", "containers", "hang", "logs", "machines")),
    *("diagnosis/cause.py", "layout/", "modes/", "proposal/", "secrets/", "signatures/"),
    *(f"records/{name}.py" for name in ("benched", "benchmark", "difference", "outputs", "saturation", "spread")),
    *("records/verification.py", "records/verified.py"),
)
ACTING = {
    *("asyncio", "fabric", "http", "httpx", "multiprocessing", "paramiko", "requests", "shutil", "signal", "socket"),
    *("subprocess", "tempfile", "threading", "time", "urllib.request", "clusterctl.hosts", "clusterctl.apply"),
    *("clusterctl.ui",),
}
VALUES = {
    "clusterctl.hosts.engine": {"bodies"},
    "clusterctl.hosts.engine.commands": {"DOCKER", "EngineCommands"},
    "clusterctl.hosts.engine.engine": {"FileInContainer"},
}
"""What code that decides takes from the engine's door: values, with which nothing can be done."""

IN_CONTAINERS = ("agent/inside/", "preflight/inside/")
"""What is sent to the nodes."""

ONE_PACKAGE = "agent/inside/"
"""What has another name on the nodes than here, and so imports itself relatively, and nothing above it."""

OF_THE_IMAGE = {"preflight/inside/collective.py": {"torch"}}
"""What the serving image has beside the standard library, for the one file that is about it."""

PRINTS = (
    *("ui/", "cli/", "lab/__main__.py", "lab/cli.py", "preflight/inside/"),
    *("agent/inside/ray_cluster.py", "agent/inside/children.py"),
)
"""Who may write to the terminal; what runs in containers writes its result."""


@cache
def imports(file: str) -> tuple[str, ...]:
    """Every module that a file imports, in functions too; not those from which it takes VALUES alone."""
    return tuple(_imports(file))


def _imports(file: str) -> Iterator[str]:
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if file.startswith(ONE_PACKAGE) and node.level == 1:
                continue  # itself
            assert node.level == 0, f"{file}: imports here are absolute"
            if not {alias.name for alias in node.names} <= VALUES.get(node.module or "", set()):
                yield node.module or ""


@cache
def tree(file: str) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text(encoding="utf-8"), file)


def within(module: str, name: str) -> bool:
    return module == name or module.startswith(f"{name}.")


def allowed(file: str, places: set[str] | tuple[str, ...]) -> bool:
    return any(file == place or (place.endswith("/") and file.startswith(place)) for place in places)


@pytest.mark.parametrize("file", SOURCES)
def test_each_dependency_has_one_door(file: str) -> None:
    for module in imports(file):
        door = next((name for name in DOORS if within(module, name)), None)
        assert door is None or allowed(file, DOORS[door]), f"{file} imports {module}: use {', '.join(DOORS[door])}"


@pytest.mark.parametrize("file", [file for file in SOURCES if allowed(file, PURE)])
def test_code_that_decides_cannot_act(file: str) -> None:
    for module in imports(file):
        acts = [name for name in ACTING if within(module, name)]
        assert not acts, f"{file} imports {module}"


@pytest.mark.parametrize("file", [file for file in SOURCES if file.startswith(IN_CONTAINERS)])
def test_what_runs_in_a_container_needs_nothing_of_ours(file: str) -> None:
    for module in imports(file):
        top = module.split(".")[0]
        assert top in sys.stdlib_module_names | OF_THE_IMAGE.get(file, set()), f"{file} imports {module}"


def is_output(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="print")) | ast.Call(func=ast.Attribute(attr="echo" | "secho")):
            return True
        case ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "stderr"):
            return True
    return False


def is_script_part(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


@pytest.mark.parametrize("file", [file for file in SOURCES if not allowed(file, PRINTS)])
def test_only_the_user_interface_writes_to_the_terminal(file: str) -> None:
    body = [part for part in tree(file).body if not is_script_part(part)]
    found = [node for part in body for node in ast.walk(part) if is_output(node)]
    assert not found, f"{file}:{getattr(found[0], 'lineno', '?')}"


def test_the_rules_above_see_what_they_are_for() -> None:
    assert "hosts/ssh/connection.py" in SOURCES
    assert "fabric" in set(imports("hosts/ssh/hops.py"))
    assert "clusterctl.inventory.model" in set(imports("planning/plan.py")) | set(imports("planning/files.py"))
