"""A lab on the GPUs of this machine: what is found of them, who gets which, and what a node and its engine are told.

No machine with a GPU is needed: a folder stands for its files, a script for nvidia-smi, as captured on two H200.
"""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from clusterctl.errors import ClusterctlError
from clusterctl.facts import cdi, parse
from clusterctl.inventory.load import load_inventory
from clusterctl.lab import cli as commands
from clusterctl.lab import disk, files, gpus
from clusterctl.lab.gpu_cdi import Edits, specification
from clusterctl.lab.gpus import Machine
from clusterctl.lab.image import own
from clusterctl.lab.state import BINDS, GPU_DEVICES, HostGpu, LabPaths, LabSpec, write_whole

UUIDS = ("GPU-aaaaaaaa-0000-0000-0000-000000000000", "GPU-bbbbbbbb-0000-0000-0000-000000000000")
BUSES = ("00000000:19:00.0", "00000000:3B:00.0")
ROWS = "".join(
    f"{index}, {uuid}, NVIDIA H200, {bus}\n" for index, (uuid, bus) in enumerate(zip(UUIDS, BUSES, strict=True))
)
MOUNTINFO = "25 1 0:22 / / rw - overlay overlay rw\n"
SEPARATE = "90 25 8:1 /driver /usr/local/nvidia ro,nosuid - ext4 /dev/sda ro\n"


def machine(
    tmp_path: Path,
    *,
    smi: str | None = f"cat <<'E'\n{ROWS}E\n",
    minors: tuple[int, ...] = (0, 1),
    separate: bool = False,
) -> tuple[Path, str]:
    """A root directory and a PATH of a machine with GPUs."""
    root, programs = tmp_path / "machine", tmp_path / "machine/usr/bin"
    libraries = root / ("usr/local/nvidia/lib64" if separate else "usr/lib/x86_64-linux-gnu")
    for folder in (programs, libraries, root / "dev", root / "proc/self"):
        folder.mkdir(parents=True)
    if smi is not None:
        (programs / "nvidia-smi").write_text(f"#!/bin/sh\n{smi}")
        (programs / "nvidia-smi").chmod(0o755)
    for name in ("libcuda.so.580.95.05", "libnvidia-ml.so.580.95.05", "libnvidia-nvvm.so.580.95.05", "libc.so.6"):
        (libraries / name).touch()
    (libraries / "libcuda.so.1").symlink_to("libcuda.so.580.95.05")
    (libraries / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.580.95.05")
    (libraries / "libnvidia-nvvm.so.4").symlink_to("libnvidia-nvvm.so.580.95.05")
    for name in ("nvidiactl", "nvidia-uvm", *(f"nvidia{minor}" for minor in minors)):
        (root / "dev" / name).touch()
    (root / "proc/self/mountinfo").write_text(MOUNTINFO + (SEPARATE if separate else ""))
    return root, f"{programs}:/usr/bin:/bin"


def test_the_gpus_of_a_machine(tmp_path: Path) -> None:
    found = gpus.discover(*machine(tmp_path))
    assert found.gpus == tuple(HostGpu(index, index, uuid, "NVIDIA H200") for index, uuid in enumerate(UUIDS))
    assert found.shared == ("nvidiactl", "nvidia-uvm")
    assert (found.mounts, found.driver_directory) == ((), None)


def test_a_driver_in_a_directory_that_is_mounted_by_itself(tmp_path: Path) -> None:
    root, path = machine(tmp_path, separate=True)
    found = gpus.discover(root, path)
    assert found.mounts == (root / "usr/local/nvidia",)
    assert found.driver_directory == root / "usr/local/nvidia"


def test_in_a_container_gpu_0_may_be_any_device(tmp_path: Path) -> None:
    found = gpus.discover(*machine(tmp_path, minors=(3, 5)))
    assert [gpu.minor for gpu in found.gpus] == [3, 5]


def test_the_drivers_own_word_for_a_gpus_device_counts(tmp_path: Path) -> None:
    root, path = machine(tmp_path, minors=(0, 1, 2, 3))
    for bus, minor in zip(("0000:19:00.0", "0000:3b:00.0"), (2, 0), strict=True):
        write_whole(
            root / f"proc/driver/nvidia/gpus/{bus}/information", f"Model: \t\t NVIDIA H200\nDevice Minor: \t {minor}\n"
        )
    assert [gpu.minor for gpu in gpus.discover(root, path).gpus] == [2, 0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"smi": None}, "no nvidia-smi in"),
        ({"smi": "echo 'NVIDIA-SMI has failed'; exit 9"}, "NVIDIA-SMI has failed"),
        ({"smi": "echo 'no rows'"}, "cannot be listed"),
        ({"minors": (0,)}, "/dev/nvidia1 does not exist"),
    ],
)
def test_a_machine_without_usable_gpus_is_refused_and_told_what_was_looked_for(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    root, path = machine(tmp_path, **changes)
    with pytest.raises(ClusterctlError) as raised:
        gpus.discover(root, path.split(":")[0])
    assert said in raised.value.message
    assert raised.value.exit_code == 1
    assert raised.value.hint


def two(tmp_path: Path) -> Machine:
    return gpus.discover(*machine(tmp_path))


def lab(tmp_path: Path, machine: Machine, **changes: Any) -> tuple[LabPaths, LabSpec]:
    """A lab's state as `up` leaves it before anything boots."""
    paths = LabPaths(tmp_path / "state", "drill")
    spec = replace(
        LabSpec("drill", 2, 1, False, IPv4Network("10.77.5.0/24"), tmp_path / "out", "vllm/vllm-openai:v1"),
        gpus_of_host=True, host_gpus=machine.gpus, own_image="x", image_key="own-x", model=tmp_path / "big",
    )  # fmt: skip
    spec = replace(spec, **changes)
    for node in spec.members:
        write_whole(paths.disk(node.name) / "etc/ssh/sshd_config", "SetEnv PATH=/bin\nPort 22\n")
        write_whole(paths.disk(node.name) / "etc/ssh/ssh_host_ed25519_key.pub", f"ssh-ed25519 KEY root@{node.name}\n")
        (paths.disk(node.name) / "models/big").mkdir(parents=True)
    write_whole(paths.files / files.KEY, "a private key\n")
    write_whole(paths.files / files.PUBLIC_KEY, "ssh-ed25519 AAAA lab\n")
    write_whole(paths.spec, spec.to_json())
    return paths, spec


def test_a_description_with_gpus_survives_the_disk(tmp_path: Path) -> None:
    _, spec = lab(tmp_path, two(tmp_path))
    assert LabSpec.from_json(spec.to_json()) == spec


def test_nodes_get_different_gpus_and_another_labs_are_not_given_away(tmp_path: Path) -> None:
    found = two(tmp_path)
    assert gpus.share_out(found, tmp_path / "state", 2, None) == found.gpus
    assert gpus.share_out(found, tmp_path / "state", 1, None) == found.gpus
    assert gpus.share_out(found, tmp_path / "state", 1, 1) == found.gpus[:1]
    with pytest.raises(ClusterctlError, match="2 nodes with 2 GPUs each: 4 of this machine's 2 GPUs"):
        gpus.share_out(found, tmp_path / "state", 2, 2)
    lab(tmp_path, found, nodes=1, host_gpus=found.gpus[:1])
    assert gpus.share_out(found, tmp_path / "state", 1, None) == found.gpus[1:]
    with pytest.raises(ClusterctlError, match=r"of which 1 belong to other labs \(drill\)") as raised:
        gpus.share_out(found, tmp_path / "state", 2, None)
    assert raised.value.exit_code == 1


def test_a_node_is_told_its_own_gpus_only(tmp_path: Path) -> None:
    found = two(tmp_path)
    paths, spec = lab(tmp_path, found)
    for node in spec.members:
        gpus.install(paths, spec, node, found)
    home, root = paths.node("node2"), paths.disk("node2")
    assert (home / GPU_DEVICES).read_text().split() == ["nvidiactl", "nvidia-uvm", "nvidia1"]
    assert (home / BINDS).read_text() == f"{tmp_path / 'big'}\t/models/big\tro\n"
    assert json.loads((root / "etc/docker/daemon.json").read_text()) == {"features": {"cdi": True}}
    text = (root / "etc/cdi/nvidia.json").read_text()
    (read,) = cdi.cdi_specs({"cdi": parse.Section(f"@@cdi /etc/cdi/nvidia.json\n{text}", 0)})  # type: ignore[misc]
    assert (read.kind, read.devices, read.driver) == ("nvidia.com/gpu", ("1", UUIDS[1], "all"), "580.95.05")
    assert "nvidia0" not in text


def test_a_model_on_the_nodes_disk_is_not_mounted_over(tmp_path: Path) -> None:
    found = two(tmp_path)
    paths, spec = lab(tmp_path, found)
    (paths.disk("node1") / "models/big/config.json").touch()
    gpus.install(paths, spec, spec.members[0], found)
    assert (paths.node("node1") / BINDS).read_text() == ""


def test_a_gpu_that_is_gone_is_named(tmp_path: Path) -> None:
    found = two(tmp_path)
    paths, spec = lab(tmp_path, found)
    with pytest.raises(ClusterctlError, match=f"node2 .*{UUIDS[1]}"):
        gpus.install(paths, spec, spec.members[1], replace(found, gpus=found.gpus[:1]))


def test_logins_find_nvidia_smi_where_the_machine_has_it(tmp_path: Path) -> None:
    found = two(tmp_path)
    paths, spec = lab(tmp_path, found)
    for _ in range(2):
        gpus.install(paths, spec, spec.members[0], found)
    lines = (paths.disk("node1") / "etc/ssh/sshd_config").read_text().splitlines()
    path = f"{found.smi.parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert lines == [f"SetEnv PATH={path}", "Port 22"]


def test_a_specification_by_hand_has_the_drivers_files(tmp_path: Path) -> None:
    edits = gpus._edits(two(tmp_path))
    inside = {str(here) for _, here in edits.mounts}
    assert {
        f"/usr/local/nvidia/lib64/{name}" for name in ("libcuda.so.1", "libcuda.so.580.95.05", "libnvidia-nvvm.so.4")
    } <= inside
    assert "/usr/bin/nvidia-smi" in inside
    assert not any("libc.so" in path for path in inside)


GENERATED = {
    "cdiVersion": "0.5.0",
    "kind": "nvidia.com/gpu",
    "devices": [
        {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}, {"path": "/dev/dri/card1"}]}}
    ],
    "containerEdits": {
        "env": ["NVIDIA_VISIBLE_DEVICES=void"],
        "deviceNodes": [{"path": "/dev/nvidia-modeset"}, {"path": "/dev/nvidiactl"}],
        "hooks": [{"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook", "args": ["x"]}],
        "mounts": [
            {"hostPath": "/usr/lib/libcuda.so.580.95.05", "containerPath": "/usr/lib/libcuda.so.580.95.05"},
            {"hostPath": "/run/nvidia-persistenced/socket", "containerPath": "/run/nvidia-persistenced/socket"},
        ],
    },
}


def test_what_the_toolkit_generates_is_taken_without_what_a_node_has_not() -> None:
    own = [HostGpu(1, 4, UUIDS[1], "NVIDIA H200")]
    made = specification(own, ["nvidiactl", "nvidia4"], Edits((), Path("/x")), GENERATED)
    common = made["containerEdits"]
    assert common["hooks"] == GENERATED["containerEdits"]["hooks"]  # type: ignore[index]
    assert [mount["hostPath"] for mount in common["mounts"]] == ["/usr/lib/libcuda.so.580.95.05"]
    assert common["deviceNodes"] == [{"path": "/dev/nvidiactl"}]
    assert [(d["name"], d["containerEdits"]["deviceNodes"]) for d in made["devices"]] == [
        (name, [{"path": "/dev/nvidia4"}]) for name in ("1", UUIDS[1], "all")
    ]


@pytest.mark.parametrize("generated", [None, [], {}, {"containerEdits": None}, {"containerEdits": {"mounts": []}}])
def test_what_is_no_specification_is_not_taken(generated: object) -> None:
    made = specification([], ["nvidiactl"], Edits(((Path("/a"), Path("/b")),), Path("/b")), generated)
    assert made["containerEdits"]["env"] == ["LD_LIBRARY_PATH=/b:/usr/local/cuda/lib64", "NVIDIA_VISIBLE_DEVICES=void"]


def test_the_inventory_asks_for_the_nodes_gpus_by_cdi(tmp_path: Path) -> None:
    paths, spec = lab(tmp_path, two(tmp_path))
    files.write(paths, spec, print)
    inventory = load_inventory(spec.directory / "inventory.yaml")
    accelerator = inventory.accelerator
    assert (accelerator.kind, accelerator.per_node, accelerator.request) == ("nvidia", 1, "cdi")
    assert (inventory.container.image, inventory.model.path) == ("vllm/vllm-openai:v1", "/models/big")
    assert inventory.rdma == "off"
    assert "memlock" not in inventory.container.ulimits


def test_a_model_is_linked_not_copied_and_links_in_it_are_followed(tmp_path: Path) -> None:
    blobs, model, target = tmp_path / "blobs", tmp_path / "model", tmp_path / "disk/models/model"
    write_whole(blobs / "1234", "weights")
    write_whole(model / "config.json", "{}")
    (model / "model.safetensors").symlink_to(blobs / "1234")
    disk._link_model(model, target)
    assert (target / "model.safetensors").samefile(blobs / "1234")
    assert not (target / "model.safetensors").is_symlink()
    assert (target / "config.json").stat().st_nlink == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--gpus-of-host"], 2, "needs --image and --model"),
        (["--image", "x"], 2, "--image is for nodes with GPUs of this machine"),
        (["--gpus-of-host", "--ssh-only"], 2, "exclude each other"),
        (["--engine", "podman", "--ssh-only"], 2, "goes with neither"),
        (["--engine", "podman", "--gpus-of-host", "--image", "x", "--model", "."], 2, "goes with neither"),
        (["--gpus-of-host", "--image", "x", "--model", "."], 2, "no config.json"),
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, said: str
) -> None:
    monkeypatch.setenv("CLUSTERCTL_LAB_ROOT", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(commands.lab, ["up", "--name", "nothing", *arguments])
    assert said in str(getattr(result.exception, "message", result.output))
    assert getattr(result.exception, "exit_code", result.exit_code) == code
    assert not (tmp_path / "state/labs").exists()


def test_an_image_that_is_nowhere_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ClusterctlError, match="no image 'no/such:image' in this machine's engine, and no file"):
        own.find("no/such:image")
    with pytest.raises(ClusterctlError, match="no root file system"):
        own.find(str(tmp_path))


def test_another_archive_under_the_same_name_is_another_image(tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(b"one")
    first = own.find(str(archive))
    archive.write_bytes(b"another")
    assert (first.kind, own.find(str(archive)).kind) == ("archive", "archive")
    assert first.key != own.find(str(archive)).key
