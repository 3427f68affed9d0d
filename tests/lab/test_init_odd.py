"""`init` on machines where something is odd: what it proposes all the same, and what it says."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import Clusterctl, Ran, Rehearsal

pytestmark = pytest.mark.lab

LINKS = r"""
import array, fcntl, os, socket, struct, subprocess, sys
TUNSETIFF, IFF_TAP, IFF_NO_PI, SIOCETHTOOL, ETHTOOL_SSET = 0x400454CA, 2, 0x1000, 0x8946, 2
held = []
for name, address, speed, state in (word.split(",") for word in sys.argv[1:]):
    link = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(link, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    low, high = int(speed) & 0xFFFF, int(speed) >> 16
    asked = struct.pack("IIIH6BIIHBBI8x", ETHTOOL_SSET, 0, 0, low, 1, 0, 0, 0, 0, 0, 0, 0, high, 0, 0, 0)
    words = array.array("B", asked)
    fcntl.ioctl(socket.socket(), SIOCETHTOOL, struct.pack("16sP", name.encode(), words.buffer_info()[0]))
    for argv in (f"addr add {address} dev {name}", f"link set {name} up", f"link set {name} carrier {state}"):
        subprocess.run(["ip", *argv.split()], check=True)
    held.append(link)
print("there", flush=True)
sys.stdin.read()
"""
"""Makes interfaces as `name,address/prefix,Mbit/s,on|off`, which are there until stdin ends."""


@contextmanager
def links(rehearsal: Rehearsal, node: str, *wanted: str) -> Iterator[None]:
    """More networks for a node."""
    argv = [*rehearsal.lab.enter(node), "python3", "-c", LINKS, *wanted]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        try:
            yield
        finally:
            process.stdin.close()


@contextmanager
def done(rehearsal: Rehearsal, node: str, do: str, undo: str) -> Iterator[None]:
    rehearsal.lab.exec(node, ["sh", "-ec", do])
    try:
        yield
    finally:
        rehearsal.lab.exec(node, ["sh", "-ec", undo])


class Init:
    """`init` for the lab's nodes, given nothing but their addresses and the key."""

    def __init__(self, rehearsal: Rehearsal, folder: Path) -> None:
        self.rehearsal = rehearsal
        self.clusterctl = Clusterctl(folder / "odd.yaml")

    def __call__(self, *more_hosts: str) -> Ran:
        hosts = [str(self.rehearsal.lab.address(name)) for name in self.rehearsal.names()]
        folder = self.rehearsal.clusterctl.inventory.parent
        login = ("--user", "root", "--key", str(folder / "id_ed25519"), "--known-hosts", str(folder / "known_hosts"))
        ran = self.clusterctl("init", "--hosts", ",".join((*hosts, *more_hosts)), *login, "--yes")
        assert ran.code == 0
        print(self.clusterctl.inventory.read_text())
        return ran

    def written(self) -> Any:
        return yaml.safe_load(self.clusterctl.inventory.read_text())

    def found(self) -> set[tuple[str, ...]]:
        """What `check` says of it: code and nodes."""
        return {(each["code"], *each["nodes"]) for each in self.clusterctl("check", "--json").json()["findings"]}


@pytest.fixture
def init(clean: Rehearsal, tmp_path: Path) -> Init:
    return Init(clean, tmp_path)


def test_of_several_private_networks_the_fastest_that_has_a_link_and_not_the_one_that_ssh_comes_in_by(
    init: Init,
) -> None:
    with ExitStack() as there:
        for number, name in enumerate(init.rehearsal.names(), start=1):
            slow, fast = f"fabric1,10.91.0.{number}/24,1000,on", f"fabric2,10.92.0.{number}/24,25000,on"
            unplugged = f"fabric3,10.93.0.{number}/24,100000,{'off' if number == 2 else 'on'}"
            there.enter_context(links(init.rehearsal, name, slow, fast, unplugged))
        ran = init()
    assert init.written()["network"] == {"cidr": "10.92.0.0/24"}
    assert [node["address"] for node in init.written()["nodes"]] == ["10.92.0.1", "10.92.0.2"]
    assert "the fastest that all nodes share: fabric2, 25 Gbit/s" in ran.out
    assert "not 10.91.0.0/24: fabric1, 1 Gbit/s\n" in ran.out
    assert f"not {init.rehearsal.lab.spec.subnet}: eth0, 10 Gbit/s: SSH comes in by it" in ran.out
    assert "not 10.93.0.0/24: fabric3, 100 Gbit/s: no link on node2" in ran.out


IMPORT = "echo other > /tmp/other; tar -C /tmp -c other | docker import - {}; rm /tmp/other"


def test_another_image_behind_the_same_name_is_told(init: Init) -> None:
    image = init.rehearsal.lab.spec.image
    aside = f"docker tag {image} aside:1; {IMPORT.format(image)}"
    back = f"docker rmi {image}; docker tag aside:1 {image}; docker rmi aside:1"
    with done(init.rehearsal, "node2", aside, back):
        ran = init()
        found = init.found()
    assert init.written()["container"]["image"] == image
    assert f"warning: {image} is on every node, but not the same" in ran.out
    assert "image-differs" in {code for code, *_ in found}


def test_a_newer_image_that_only_one_node_has_is_not_taken(init: Init) -> None:
    newer = "vllm/vllm-openai:v9.9.9"
    with done(init.rehearsal, "node2", IMPORT.format(newer), f"docker rmi {newer}"):
        ran = init()
    assert init.written()["container"]["image"] == init.rehearsal.lab.spec.image
    assert f"not {newer}: on node2, not on node1" in ran.out
    assert "warning" not in ran.out


def test_a_node_without_an_engine_is_written_and_told(init: Init) -> None:
    every = "for dir in $(echo $PATH | tr : ' '); do if [ -e $dir/docker ]; then {}; fi; done"
    hide, show = every.format("mount --bind /dev/null $dir/docker"), every.format("umount $dir/docker")
    with done(init.rehearsal, "node1", hide, show):
        ran = init()
        found = init.found()
    assert init.written()["head"] == "node2", "the first with an engine"
    assert "Docker" in ran.out
    assert "on 1 of 2 nodes" in ran.out
    assert "warning: node1: " in ran.out
    assert "warning: the engine of node1 could not be asked" in ran.out
    assert found == {("engine-missing", "node1")}


def test_a_node_that_does_not_answer_is_not_planned_with(init: Init) -> None:
    nobody = str(init.rehearsal.lab.spec.subnet[250])
    ran = init(nobody)
    data = init.written()
    assert [node["name"] for node in data["nodes"]] == ["node1", "node2"]
    assert data["serve"]["data_parallel"] * data["serve"]["pipeline_parallel"] * data["serve"]["tensor_parallel"] == 2
    assert f"not node3 ({nobody}): it did not answer" in ran.out
    assert "warning: node3 is left out, since it did not answer" in ran.out
    assert "for 2 of 3 nodes: node3 stands in it as a comment" in ran.out
    assert f"  #   host: {nobody}\n" in init.clusterctl.inventory.read_text()
    assert init.found() == set(), "it would start"


def test_models_of_which_each_node_has_its_own(init: Init) -> None:
    away = "mv /models/tiny /models/tiny-moe /root; cp -r /root/tiny /models/own"
    with done(init.rehearsal, "node1", away, "rm -r /models/own; mv /root/tiny /root/tiny-moe /models"):
        ran = init()
        found = init.found()
    path = init.written()["model"]["path"]
    missing = "node1" if path == "/models/tiny-moe" else "node2"
    assert f"warning: {path} is on " in ran.out
    assert f"not on {missing}" in ran.out
    assert ran.out.count("not /models/") == 2, "the other two, and who has them"
    assert found == {("model-missing", missing)}
