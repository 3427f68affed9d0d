"""A room imports only what stands below it, no two rooms import each other, and no files go in circles."""

from __future__ import annotations

from pathlib import Path

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
