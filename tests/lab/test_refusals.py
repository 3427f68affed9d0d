"""What would surely fail is refused before anything is started, with a message that names the node and the fix."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from clusterctl.lab import lab as labs

from .conftest import Ran, Rehearsal

pytestmark = pytest.mark.lab

WITHIN_S = 30
"""«Within seconds»: far below the twenty minutes that finding out late costs, far above what a busy CI adds."""


def refused(rehearsal: Rehearsal, ran: Ran, *words: str) -> None:
    assert ran.code == 1
    assert ran.seconds < WITHIN_S
    for word in words:
        assert word in ran.err
    for node in labs.status(rehearsal.lab):
        if node.power == "on":
            assert rehearsal.containers(node.name) == []


def test_a_node_without_power(clean: Rehearsal) -> None:
    labs.power_off(clean.lab, "node2")
    refused(clean, clean.clusterctl("up"), "node-unreachable", "node2", str(clean.lab.address("node2")))


def test_a_missing_shard(clean: Rehearsal) -> None:
    shard = sorted((clean.lab.disk("node2") / "models/tiny").glob("*.safetensors"))[-1]
    aside = shard.with_suffix(".aside")
    shard.rename(aside)
    try:
        refused(clean, clean.clusterctl("up"), "model-shard-missing", "node2", shard.name)
    finally:
        aside.rename(shard)


def test_a_truncated_shard(clean: Rehearsal) -> None:
    shard = sorted((clean.lab.disk("node2") / "models/tiny").glob("*.safetensors"))[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    try:
        refused(clean, clean.clusterctl("up"), "model-file-damaged", "node2", shard.name)
    finally:
        shard.write_bytes(whole)


def test_another_image_behind_the_same_name(clean: Rehearsal, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("another image")
    archive = subprocess.run(["tar", "-C", str(tmp_path), "-c", "other"], check=True, capture_output=True).stdout
    reference = clean.lab.spec.image
    assert reference is not None
    genuine = clean.lab.exec("node2", ["docker", "image", "inspect", "-f", "{{.Id}}", reference]).strip()
    clean.lab.exec("node2", ["docker", "tag", reference, "aside:1"])
    subprocess.run(
        [*clean.lab.enter("node2"), "docker", "import", "-", reference], input=archive, check=True, capture_output=True
    )
    try:
        refused(clean, clean.clusterctl("up"), "image-differs", "node2", reference)
    finally:
        clean.lab.exec("node2", ["docker", "rmi", reference])
        clean.lab.exec("node2", ["docker", "tag", genuine, reference])
        clean.lab.exec("node2", ["docker", "rmi", "aside:1"])


def test_no_such_image(clean: Rehearsal) -> None:
    other = clean.clusterctl.with_changes("no-image", {"container.image": "nobody/nothing:1"})
    refused(clean, other("up"), "image-absent", "node1", "node2", "nobody/nothing:1", "docker pull")


def test_a_wrong_host_key(clean: Rehearsal) -> None:
    known_hosts = clean.clusterctl.inventory.parent / "known_hosts"
    right = known_hosts.read_text()
    address = str(clean.lab.address("node2"))
    other = next(line for line in right.splitlines() if line.startswith(str(clean.lab.address("node1"))))
    wrong = [
        f"{address} {' '.join(other.split()[1:])}" if row.startswith(address) else row for row in right.splitlines()
    ]
    known_hosts.write_text("\n".join(wrong) + "\n")
    try:
        refused(clean, clean.clusterctl("up"), "node-unreachable", "node2", "host key is NOT the one", "ssh-keygen -R")
    finally:
        known_hosts.write_text(right)


def test_an_unknown_host_key(clean: Rehearsal) -> None:
    known_hosts = clean.clusterctl.inventory.parent / "known_hosts"
    right = known_hosts.read_text()
    known_hosts.write_text("")
    try:
        refused(clean, clean.clusterctl("up"), "is not in", "SHA256:", "--accept-new-host-keys")
    finally:
        known_hosts.write_text(right)


def test_the_api_port_taken_by_a_stranger(clean: Rehearsal) -> None:
    with clean.stranger("node1", 8000):
        refused(clean, clean.clusterctl("up"), "port-taken", "node1", "port 8000", "serve.port", "python3")


def test_no_address_in_the_network(clean: Rehearsal) -> None:
    data = {"network.cidr": "10.99.0.0/24", "nodes.0.address": None, "nodes.1.address": None}
    refused(
        clean, clean.clusterctl.with_changes("cidr", data)("up"), "address-missing", "node1", "node2", "10.99.0.0/24"
    )


def test_no_model_at_the_path(clean: Rehearsal) -> None:
    other = clean.clusterctl.with_changes("no-model", {"model.path": "/models/nothing"})
    refused(clean, other("up"), "model-missing", "node1", "node2", "/models/nothing")


def test_no_engine_on_a_node(clean: Rehearsal) -> None:
    (engine,) = clean.lab.exec("node2", ["pgrep", "-x", "dockerd"]).split()
    keeper = clean.lab.exec("node2", ["ps", "-o", "ppid=", "-p", engine]).strip()  # would start it again
    clean.lab.exec("node2", ["kill", keeper, engine])
    try:
        ran = clean.clusterctl("up")
        assert ran.code == 1
        assert "engine-unusable" in ran.err
        assert "node2" in ran.err
    finally:
        labs.power_off(clean.lab, "node2")
        labs.power_on(clean.lab, "node2")


def test_a_wrong_inventory_is_refused_before_any_contact(clean: Rehearsal) -> None:
    other = clean.clusterctl.with_changes("bad", {"serve.tensor_parallel": 3, "servr": {}})
    ran = other("up")
    assert ran.code == 2
    assert "bad.yaml:" in ran.err
    assert "serve" in ran.err
    assert ran.seconds < WITHIN_S
