"""The operator's files: a valid inventory comes out, and nothing is removed that the lab did not write."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from clusterctl.errors import UsageError
from clusterctl.inventory.load import load_inventory
from clusterctl.lab import disk, files
from clusterctl.lab.state import LabPaths, LabSpec


@pytest.fixture
def lab(tmp_path: Path) -> tuple[LabPaths, LabSpec]:
    """A lab's state as `up` leaves it before anything boots, with made-up keys."""
    paths = LabPaths(tmp_path / "state", "drill")
    spec = LabSpec("drill", 12, 2, False, IPv4Network("10.77.5.0/24"), tmp_path / "out", "clusterctl-lab:0123456789ab")
    paths.files.mkdir(parents=True)
    (paths.files / files.KEY).write_text("a private key\n")
    (paths.files / files.PUBLIC_KEY).write_text("ssh-ed25519 AAAA lab\n")
    for node in spec.members:
        ssh = paths.disk(node.name) / "etc/ssh"
        ssh.mkdir(parents=True)
        (ssh / "ssh_host_ed25519_key.pub").write_text(f"ssh-ed25519 KEYOF{node.name} root@{node.name}\n")
    return paths, spec


def quiet(_: str) -> None:
    pass


def test_the_inventory_loads_and_says_what_was_asked_for(lab: tuple[LabPaths, LabSpec]) -> None:
    paths, spec = lab
    files.write(paths, spec, quiet)
    inventory = load_inventory(spec.directory / "inventory.yaml")
    assert inventory.cluster == "drill"
    assert [(node.name, node.host, node.address) for node in inventory.nodes] == [
        (f"node{i}", f"10.77.5.{i}", IPv4Address(f"10.77.5.{i}")) for i in range(1, 13)
    ]
    assert inventory.accelerator.kind == "cpu"
    assert inventory.accelerator.per_node == 2
    assert inventory.container.image == spec.image
    assert "memlock" not in inventory.container.ulimits
    assert inventory.ssh.key == spec.directory / "id_ed25519"
    assert inventory.model.path == f"/{disk.MODELS}/tiny"


def test_the_inventory_names_the_engine_that_the_nodes_have(lab: tuple[LabPaths, LabSpec]) -> None:
    paths, spec = lab
    files.write(paths, replace(spec, engine="podman"), quiet)
    assert load_inventory(spec.directory / "inventory.yaml").container.engine == "podman"


def test_known_hosts_has_each_node_under_the_address_that_ssh_connects_to(lab: tuple[LabPaths, LabSpec]) -> None:
    paths, spec = lab
    files.write(paths, spec, quiet)
    lines = (spec.directory / "known_hosts").read_text().splitlines()
    assert lines[11] == "10.77.5.12 ssh-ed25519 KEYOFnode12"
    assert len(lines) == 12


def test_the_private_key_is_the_operators_alone(lab: tuple[LabPaths, LabSpec]) -> None:
    paths, spec = lab
    files.write(paths, spec, quiet)
    assert (spec.directory / "id_ed25519").stat().st_mode & 0o777 == 0o600


def test_what_was_written_is_removed_with_its_directory(lab: tuple[LabPaths, LabSpec]) -> None:
    paths, spec = lab
    files.write(paths, spec, quiet)
    with (spec.directory / "known_hosts").open("a") as file:
        file.write("10.77.5.1 ssh-rsa pinned-by-a-tool\n")
    (spec.directory / ".inventory.yaml.part").write_text("cut off")
    files.remove(paths, spec.directory, quiet)
    assert not spec.directory.exists()


def test_an_edited_inventory_is_neither_overwritten_nor_removed(lab: tuple[LabPaths, LabSpec]) -> None:
    paths, spec = lab
    files.write(paths, spec, quiet)
    inventory, said = spec.directory / "inventory.yaml", list[str]()
    inventory.write_text(inventory.read_text() + "# mine\n")
    files.write(paths, spec, said.append)
    files.remove(paths, spec.directory, said.append)
    assert inventory.read_text().endswith("# mine\n")
    assert said == [f"kept {inventory}: it was edited"] * 2
    assert [path.name for path in spec.directory.iterdir()] == ["inventory.yaml"]


def test_other_peoples_files_stay(lab: tuple[LabPaths, LabSpec]) -> None:
    paths, spec = lab
    files.write(paths, spec, quiet)
    (spec.directory / "notes.txt").write_text("mine")
    files.remove(paths, spec.directory, quiet)
    assert [path.name for path in spec.directory.iterdir()] == ["notes.txt"]


def test_a_new_lab_refuses_a_directory_with_an_inventory(tmp_path: Path) -> None:
    (tmp_path / "inventory.yaml").write_text("version: 1\n")
    with pytest.raises(UsageError, match=r"inventory\.yaml exists and was not written by this lab"):
        files.refuse_foreign(tmp_path)
