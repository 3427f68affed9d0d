"""RDMA devices from sysfs. No real one could be captured: the trees are written by the kernel's documented format
(Documentation/ABI/stable/sysfs-class-infiniband, testing/sysfs-class-infiniband-gid-attrs), and read by the probe
itself below CLUSTERCTL_ROOT."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from clusterctl.facts import gather, parse
from clusterctl.facts.fact import Unknown
from clusterctl.facts.rdma import RdmaPort, rdma

ZERO = "0000:0000:0000:0000:0000:0000:0000:0000"
ROCE = {
    "ports/1/state": "4: ACTIVE",
    "ports/1/phys_state": "5: LinkUp",
    "ports/1/link_layer": "Ethernet",
    "ports/1/rate": "100 Gb/sec (4X EDR)",
    "ports/1/gids/0": "fe80:0000:0000:0000:0a94:efff:fe80:0001",
    "ports/1/gid_attrs/types/0": "IB/RoCE v1",
    "ports/1/gid_attrs/ndevs/0": "ens1f0np0",
    "ports/1/gids/3": "0000:0000:0000:0000:0000:ffff:0a4d:000b",
    "ports/1/gid_attrs/types/3": "RoCE v2",
    "ports/1/gid_attrs/ndevs/3": "ens1f0np0",
    "ports/1/gids/4": ZERO,
    "device/net/ens1f0np0/dev_port": "0",
}
IB = {
    "ports/1/state": "4: ACTIVE",
    "ports/1/phys_state": "5: LinkUp",
    "ports/1/link_layer": "InfiniBand",
    "ports/1/rate": "400 Gb/sec (4X NDR)",
    "ports/1/gids/0": "fe80:0000:0000:0000:0002:c903:0000:1491",
    "device/net/ib0/dev_port": "0",
}


def tree(root: Path, devices: Mapping[str, Mapping[str, str]]) -> None:
    for device, files in devices.items():
        for name, content in files.items():
            path = root / "sys/class/infiniband" / device / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + "\n", encoding="ascii")


def probe(root: Path) -> Mapping[str, parse.Section]:
    environment = {**os.environ, "CLUSTERCTL_ROOT": str(root)}
    argv = ["sh", "-s", "--", "/nowhere"]
    done = subprocess.run(argv, input=gather.PROBE, capture_output=True, env=environment, check=False, timeout=60)
    assert done.stderr == b""
    return parse.sections(done.stdout.decode())


def ports(root: Path, devices: Mapping[str, Mapping[str, str]]) -> tuple[RdmaPort, ...]:
    tree(root, devices)
    read = rdma(probe(root))
    assert isinstance(read, tuple)
    return read


def test_a_kernel_without_rdma(tmp_path: Path) -> None:
    assert rdma(probe(tmp_path)) is None


def test_a_kernel_with_rdma_and_no_device(tmp_path: Path) -> None:
    (tmp_path / "sys/class/infiniband").mkdir(parents=True)
    assert rdma(probe(tmp_path)) == ()


def test_a_roce_port(tmp_path: Path) -> None:
    (port,) = ports(tmp_path, {"mlx5_0": ROCE})
    assert (port.name, port.state, port.phys_state, port.active) == ("mlx5_0:1", "ACTIVE", "LinkUp", True)
    assert (port.link_layer, port.rate, port.interfaces) == ("Ethernet", "100 Gb/sec (4X EDR)", ("ens1f0np0",))
    assert [(gid.index, gid.type, str(gid.ipv4 or "-")) for gid in port.gids] == [
        (0, "IB/RoCE v1", "-"),
        (3, "RoCE v2", "10.77.0.11"),
    ]


def test_infiniband_is_found_by_its_pci_function(tmp_path: Path) -> None:
    read = ports(tmp_path, {"mlx5_0": IB, "mlx5_1": ROCE})
    assert [port.interfaces for port in read] == [("ib0",), ("ens1f0np0",)]
    assert [(port.device, port.port, port.link_layer) for port in read] == [
        ("mlx5_0", 1, "InfiniBand"),
        ("mlx5_1", 1, "Ethernet"),
    ]


def test_one_function_with_two_ports(tmp_path: Path) -> None:
    second = {name.replace("ports/1", "ports/2"): value for name, value in IB.items() if name.startswith("ports")}
    read = ports(tmp_path, {"mlx4_0": {**IB, **second, "device/net/ib1/dev_port": "1"}})
    assert [(port.name, port.interfaces) for port in read] == [("mlx4_0:1", ("ib0",)), ("mlx4_0:2", ("ib1",))]


def test_a_bond_is_the_interface_of_its_gids(tmp_path: Path) -> None:
    bonded = {name: value.replace("ens1f0np0", "bond0") if "ndevs" in name else value for name, value in ROCE.items()}
    read = ports(tmp_path, {"mlx5_bond_0": bonded})
    assert "bond0" in read[0].interfaces


def test_ten_devices_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    read = ports(tmp_path, {f"mlx5_{n}": IB for n in (10, 2, 0)})
    assert [port.device for port in read] == ["mlx5_0", "mlx5_2", "mlx5_10"]


@pytest.mark.parametrize("text", ["mlx5_0/ports/1/gids/0\tnonsense", "mlx5_0/ports/1/gids/0\t::1::"])
def test_what_is_no_gid_is_unknown(text: str) -> None:
    assert isinstance(rdma({"rdma": parse.Section(text, 0)}), Unknown)
