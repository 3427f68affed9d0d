"""A room imports only what stands below it, no two rooms import each other, and no files go in circles."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.house import FLOORS, House

HOUSE = House()


def test_every_room_has_a_floor() -> None:
    assert HOUSE.unknown_rooms == ()
    assert set(FLOORS) == set(HOUSE.rooms)


def test_no_import_goes_up() -> None:
    assert HOUSE.against_the_order == ()


def test_no_two_rooms_import_each_other() -> None:
    assert HOUSE.pairs == ()


def test_no_files_import_each_other_in_a_circle() -> None:
    assert HOUSE.circles == ()


def test_only_the_command_line_imports_the_lab() -> None:
    importers = {found.importer for found in HOUSE.between_rooms if found.imported.startswith("clusterctl.lab")}
    assert {name.split(".")[1] for name in importers} == {"cli"}


def test_only_the_door_to_the_engine_reads_the_engines_keys() -> None:
    assert HOUSE.raw_engine_reads == ()


def test_a_read_of_the_engines_keys_is_seen(tmp_path: Path) -> None:
    for room in ("hosts/engine", "facts"):
        (tmp_path / room).mkdir(parents=True)
        (tmp_path / room / "one.py").write_text('def f(said):\n    return said["State"].get("Running"), said["mine"]\n')
    assert House(tmp_path).raw_engine_reads == (("facts/one.py", 2), ("facts/one.py", 2))


def test_these_tests_see_what_they_are_for(tmp_path: Path) -> None:
    (tmp_path / "hosts").mkdir()
    (tmp_path / "cli").mkdir()
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "hosts" / "__init__.py").write_text("")
    (tmp_path / "hosts" / "one.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from clusterctl.cli import two\n"
    )
    (tmp_path / "cli" / "__init__.py").write_text("")
    (tmp_path / "cli" / "two.py").write_text("def f():\n    from ..hosts import one\n")
    house = House(tmp_path)
    assert [(found.importer, found.imported) for found in house.against_the_order] == [
        ("clusterctl.hosts.one", "clusterctl.cli.two")
    ]
    assert house.pairs == (("cli", "hosts"),)
    assert house.circles == (("clusterctl.cli.two", "clusterctl.hosts.one"),)


CHANGING = {
    *("create", "put_files", "start", "stop", "remove", "signal", "set_restart_policy", "run_once", "exec", "resize"),
    *("converse", "shell"),
}
"""Methods of a node's engine and SSH connection that start, write or remove something there."""

MAY_CHANGE = ("hosts", "lock", "apply", "preflight", "actions", "lab")


ONLY_LOOKS = {"diagnosis/processes.py": {"exec"}}
"""It runs the agent's package in the container, which looks at processes there, and ends within seconds."""


def calls_on_a_node(file: str) -> set[str]:
    """Names of methods that a file calls on something's `engine` or `ssh`."""
    return {
        node.func.attr
        for node in ast.walk(HOUSE.files[file])
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Attribute)
        and node.func.value.attr in ("engine", "ssh")
    }


@pytest.mark.parametrize("file", [file for file in HOUSE.files if not file.startswith(MAY_CHANGE)])
def test_everything_else_can_only_read(file: str) -> None:
    assert calls_on_a_node(file) & CHANGING == ONLY_LOOKS.get(file, set())


def test_that_test_sees_what_changes_nodes() -> None:
    assert {"create", "start", "put_files"} <= calls_on_a_node("apply/gang.py")
    assert "read_file" in calls_on_a_node("facts/containers.py")


@pytest.mark.parametrize("file", [file for file in HOUSE.files if file.startswith("facts/")])
def test_what_facts_run_over_ssh_only_reads(file: str) -> None:
    """`read_only=True` says so to the connection, which may run it twice."""
    for node in ast.walk(HOUSE.files[file]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "run":
            assert "read_only" in {keyword.arg for keyword in node.keywords}, f"{file}:{node.lineno}"
