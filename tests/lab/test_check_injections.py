"""Faults put into a lab, each found on its node by `check`, and each a reason for `up` to start nothing.

What the other files of this directory put in is not repeated here: model files (test_check_model.py), images
(test_check_image_report.py), firewalls and MTUs (test_check_network.py), disks, clocks, host names
(test_check_system.py), power, host keys, the API's port (test_refusals.py).
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import Clusterctl, Rehearsal

pytestmark = pytest.mark.lab

H200 = Path(__file__).parents[1] / "unit/fixtures/probe/ubuntu24-two-h200.txt"
STALE_RAY_WITHIN_S = 60
"""`ray start` takes five to ten seconds on two idle cores."""


@contextmanager
def shell(rehearsal: Rehearsal, node: str, doing: str, undoing: str) -> Iterator[None]:
    """Something done on a node, and undone whatever happens."""
    rehearsal.lab.exec(node, ["sh", "-ec", doing])
    try:
        yield
    finally:
        rehearsal.lab.exec(node, ["sh", "-c", undoing])


def found_and_refused(rehearsal: Rehearsal, clusterctl: Clusterctl, code: str, *nodes: str) -> str:
    """What `check` saw: one error of this code, with these nodes; `up` ends with 1 and starts nothing."""
    before = [rehearsal.containers(name) for name in rehearsal.names()]
    checked = clusterctl("check", "--json")
    assert checked.code == 1
    found = [finding for finding in checked.json()["findings"] if finding["code"] == code]
    assert [(finding["severity"], finding["nodes"]) for finding in found] == [("error", list(nodes))]
    refused = clusterctl("up")
    assert refused.code == 1
    assert f"[{code}]" in refused.err
    assert [rehearsal.containers(name) for name in rehearsal.names()] == before
    return str(found[0]["seen"])


def test_the_control_stores_port_taken_by_a_stranger(clean: Rehearsal) -> None:
    with clean.stranger("node1", 6379) as pid:
        seen = found_and_refused(clean, clean.clusterctl, "port-taken", "node1")
    assert seen == f"port 6379 (ray.ports.gcs) is taken by python3 (pid {pid}) on 0.0.0.0"


def test_somebody_elses_ray_is_named_and_left_alone(clean: Rehearsal) -> None:
    """A container without our label: its ports are in the way, it is not ours to remove."""
    image = clean.lab.spec.image
    assert image is not None
    start = "ray start --head --block --port 6379 --num-cpus 1 --include-dashboard=false --disable-usage-stats"
    start += " --object-store-memory 100000000"
    run = ["docker", "run", "--detach", "--name", "old-ray", "--network", "host", "--shm-size", "200m"]
    clean.lab.exec("node1", [*run, "--entrypoint", "sh", image, "-c", start])
    try:
        deadline = time.monotonic() + STALE_RAY_WITHIN_S
        while 6379 not in clean.listening("node1"):
            assert time.monotonic() < deadline, clean.lab.exec("node1", ["docker", "logs", "old-ray"])
            time.sleep(0.5)
        seen = found_and_refused(clean, clean.clusterctl, "port-taken", "node1")
        assert seen.startswith("port 6379 (ray.ports.gcs) is taken by gcs_server (pid ")
        assert clean.clusterctl("down").code == 0
        assert clean.containers("node1") == ["old-ray"]
        assert clean.lab.exec("node1", ["docker", "inspect", "-f", "{{.State.Running}}", "old-ray"]).strip() == "true"
    finally:
        clean.lab.exec("node1", ["docker", "rm", "--force", "old-ray"])


def test_a_node_without_the_docker_command(clean: Rehearsal) -> None:
    every = "for dir in $(echo $PATH | tr : ' '); do if [ -e $dir/docker ]; then {}; fi; done"
    hide, show = every.format("mount --bind /dev/null $dir/docker"), every.format("umount $dir/docker")
    with shell(clean, "node2", hide, show):
        checked = clean.clusterctl("check", "--json")
        refused = clean.clusterctl("up")
    assert [(row["code"], row["nodes"]) for row in checked.json()["findings"]] == [("engine-missing", ["node2"])]
    assert (checked.code, refused.code) == (1, 1)
    assert "error [engine-missing] node2" in refused.err
    assert "install Docker Engine" in refused.err
    assert [clean.containers(name) for name in clean.names()] == [[], []]


def test_a_login_outside_the_docker_group(clean: Rehearsal) -> None:
    login = "useradd --create-home --password '*' ops && install -d -m 700 -o ops /home/ops/.ssh"
    login += " && install -m 600 -o ops /root/.ssh/authorized_keys /home/ops/.ssh/"
    other = clean.clusterctl.with_changes("ops", {"nodes.1.user": "ops"})
    with shell(clean, "node2", login, "userdel --remove ops"):
        seen = found_and_refused(clean, other, "engine-unusable", "node2")
        assert "docker.sock is not writable" in seen
        assert "usermod -aG docker" in other("check").out
        clean.lab.exec("node2", ["usermod", "-aG", "docker", "ops"])
        assert other("check").code == 0


def test_one_address_on_two_nodes(clean: Rehearsal) -> None:
    """A private network of its own, in which both nodes were given the same address."""
    data = {"network.cidr": "10.50.0.0/24", "nodes.0.address": None, "nodes.1.address": None}
    other = clean.clusterctl.with_changes("twice", data)
    add, remove = "ip addr add 10.50.0.1/24 dev eth0", "ip addr del 10.50.0.1/24 dev eth0"
    with shell(clean, "node1", add, remove), shell(clean, "node2", add, remove):
        seen = found_and_refused(clean, other, "address-duplicate", "node1", "node2")
    assert seen == "10.50.0.1 is on more than one node"


def test_a_node_that_has_anothers_address_beside_its_own(clean: Rehearsal) -> None:
    address = clean.lab.address("node1")
    with shell(clean, "node2", f"ip addr add {address}/32 dev lo", f"ip addr del {address}/32 dev lo"):
        seen = found_and_refused(clean, clean.clusterctl, "address-duplicate", "node1", "node2")
    assert seen == f"{address} is on more than one node"


def test_one_machine_under_two_entries_is_refused_by_the_inventory(clean: Rehearsal) -> None:
    data = {"nodes.1.host": str(clean.lab.address("node1")), "nodes.1.address": None}
    ran = clean.clusterctl.with_changes("same", data)("up")
    assert ran.code == 2
    assert "is already the host of nodes[0]" in ran.err


def nvidia_smi(gpus: int) -> str:
    """Shell that puts an nvidia-smi on the node: it answers as that of a machine with H200 did, for so many of them.

    There is no GPU in a lab, so what stands in is the program that is asked; who asks it and how is the real thing.
    """
    section = H200.read_text(encoding="utf-8").partition("@@begin gpus\n")[2].partition("\n@@end")[0]
    rows = "\n".join(section.strip().splitlines()[:gpus])
    script = f"#!/bin/sh\ncase $1 in --query-gpu=*) cat <<'ROWS'\n{rows}\nROWS\n;; esac\n"
    make = f"mkdir /opt/stand-in && cat >/opt/stand-in/nvidia-smi <<'SCRIPT'\n{script}SCRIPT\n"
    return f"{make}chmod +x /opt/stand-in/nvidia-smi && mount --bind /opt/stand-in /usr/local/sbin"


NO_NVIDIA_SMI = "umount /usr/local/sbin; rm -r /opt/stand-in"


@pytest.mark.parametrize(
    ("per_node", "code", "nodes", "words"),
    [
        (2, "gpus-missing", ["node2"], "1 GPUs, accelerator.per_node says 2"),
        ("auto", "gpus-differ", ["node1", "node2"], "different numbers of GPUs: node1 2, node2 1"),
    ],
)
def test_numbers_of_gpus_that_differ(
    clean: Rehearsal, per_node: int | str, code: str, nodes: list[str], words: str
) -> None:
    other = clean.clusterctl.with_changes("gpus", {"accelerator.kind": "nvidia", "accelerator.per_node": per_node})
    with shell(clean, "node1", nvidia_smi(2), NO_NVIDIA_SMI), shell(clean, "node2", nvidia_smi(1), NO_NVIDIA_SMI):
        assert found_and_refused(clean, other, code, *nodes) == words


def test_weights_that_no_node_has_room_for(clean: Rehearsal) -> None:
    """A file of 900 GB that takes no room: its header says what it would hold. Four H200 have 562 GiB."""
    size = 900_000_000_000
    header = json.dumps({"model.layers.0.w": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}})
    content = len(header).to_bytes(8, "little") + header.encode()
    places = [clean.lab.disk(name) / "models/large" for name in clean.names()]
    data = {"model.path": "/models/large", "accelerator.kind": "nvidia", "accelerator.per_node": 2}
    other = clean.clusterctl.with_changes("large", data)
    try:
        for place in places:
            subprocess.run(["cp", "-r", str(place.with_name("tiny")), str(place)], check=True)
            for tiny in (*place.glob("*.safetensors"), *place.glob("*.index.json")):
                tiny.unlink()
            with (place / "model.safetensors").open("wb") as file:
                file.write(content)
                file.truncate(len(content) + size)
        with shell(clean, "node1", nvidia_smi(2), NO_NVIDIA_SMI), shell(clean, "node2", nvidia_smi(2), NO_NVIDIA_SMI):
            seen = found_and_refused(clean, other, "model-too-large")
    finally:
        for place in places:
            subprocess.run(["rm", "-r", str(place)], check=True)
    assert seen.startswith("TP 2 x PP 2: ")
    assert "GiB of weights a GPU with room for" in seen


def test_little_locked_memory_where_rdma_is_required(clean: Rehearsal) -> None:
    data = {"rdma": "required", "container.cap_add": [], "container.ulimits": {"memlock": 8388608}}
    # A lab has no HCA, which is an error of its own here, and found before any container is asked.
    other = clean.clusterctl.with_changes("rdma", {**data, "waive": ["rdma-no-active-port"]})
    checked = other("check", "--json")
    found = [row for row in checked.json()["findings"] if row["code"] == "memlock-in-container"]
    assert [(row["severity"], row["nodes"]) for row in found] == [("error", [name]) for name in clean.names()]
    assert found[0]["seen"] == "the container may lock 8192 KiB of memory, and has no IPC_LOCK"
    refused = other("up")
    assert refused.code == 1
    assert "error [memlock-in-container] node1" in refused.err


def test_a_context_longer_than_the_kv_cache(clean: Rehearsal) -> None:
    other = clean.clusterctl.with_changes("long", {"serve.options.max-model-len": 100_000_000})
    assert "100,000,000" in found_and_refused(clean, other, "kv-cache-small")


def test_a_hung_node_holds_up_no_report_on_the_others(clean: Rehearsal) -> None:
    """A node that answers SSH and nothing else (a dead mount, say): it is named, and so is what is wrong elsewhere."""
    clean.lab.exec("node2", ["sh", "-c", "printf '#!/bin/sh\\nexec sleep 300\\n' >/root/hang; chmod +x /root/hang"])
    clean.lab.exec("node2", ["mount", "--bind", "/root/hang", "/usr/bin/cat"])
    try:
        ran = clean.clusterctl.with_changes("hung", {"model.path": "/models/nothing"})("check")
    finally:
        clean.lab.exec("node2", ["umount", "/usr/bin/cat"])
    assert ran.code == 1
    assert "error [node-unreachable] node2: `sh` did not end within 20 s" in ran.out
    assert "error [model-missing] node1" in ran.out
    assert "1/2 nodes read, waiting for node2" in ran.err
    assert ran.seconds < 40
