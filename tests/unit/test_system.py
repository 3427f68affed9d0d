"""The machine and its NVIDIA driver, from captures (fixtures/probe) and from files below CLUSTERCTL_ROOT."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterctl.facts import gather, parse
from clusterctl.facts.amd import amd_gpus
from clusterctl.facts.fact import Unknown
from clusterctl.facts.kernel_net import Route, kernel_addresses, kernel_routes
from clusterctl.facts.nvidia import KernelModule, NvidiaFacts, Topology, nvidia, topology
from clusterctl.facts.rdma import rdma
from clusterctl.facts.records import InterfaceAddress
from clusterctl.facts.system import Clock, EngineProcess, SystemFacts, clock, system
from tests.unit.support import FIXTURES

LIMITS = "Max open files  1024  524288  files\nMax locked memory  8388608  {}  bytes\n"
H200 = "ubuntu24-two-h200"


def captured(name: str) -> Mapping[str, parse.Section]:
    return parse.sections((FIXTURES / "probe" / f"{name}.txt").read_text(encoding="utf-8"))


def machine(found: Mapping[str, parse.Section]) -> SystemFacts:
    return system(found, asked_at_s=0, answered_at_s=2e9)


def probe(root: Path, path: str = "") -> Mapping[str, parse.Section]:
    """The probe on a machine made of files, with nothing but dash and the commands below `path` and the usual ones."""
    environment = {"CLUSTERCTL_ROOT": str(root), "PATH": f"{path}:{os.environ['PATH']}"}
    argv = ["sh", "-s", "--", "/nowhere"]
    done = subprocess.run(argv, input=gather.PROBE, capture_output=True, env=environment, check=False, timeout=60)
    assert done.stderr == b""
    return parse.sections(done.stdout.decode())


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def test_a_captured_machine() -> None:
    found = machine(captured(H200))
    assert found.os == "Ubuntu 24.04.3 LTS"
    assert (found.virtual, found.systemd, found.login_memlock_bytes) == (True, False, -1)
    assert found.memory_total_bytes == 263998500 * 1024
    assert found.engine_process is None
    assert found.own_addresses == (IPv4Address("127.0.0.1"),)
    tmp = found.filesystem("/tmp")
    assert tmp is not None
    assert (tmp.free_bytes, tmp.total_bytes) == (33549203 * 4096, 66053021 * 4096)
    assert isinstance(found.interfaces, tuple)
    assert {item.name: (item.mtu, item.state, item.speed_mbps) for item in found.interfaces}["eth0"] == (
        1400,
        "up",
        None,
    )
    assert isinstance(found.routes, tuple)
    assert Route("eth0", IPv4Network("0.0.0.0/0"), IPv4Address("192.0.2.1"), 0) in found.routes


def test_a_captured_driver() -> None:
    found = nvidia(captured(H200))
    assert isinstance(found, NvidiaFacts)
    assert found.module == KernelModule("580.159.04", open=True)
    assert found.version_mismatch is None
    assert isinstance(found.topology, Topology)
    assert found.topology.links["GPU0"]["GPU1"] == "NV18"
    assert found.topology.without_nvlink([0, 1]) == ()
    assert (found.peermem, found.char_links, found.nvswitches, found.fabric_manager) == (False, False, False, None)
    gpus = parse.gpus(captured(H200))
    assert isinstance(gpus, tuple)
    assert {(g.driver_version, g.compute_mode, g.mig, g.ecc_uncorrected, g.fabric) for g in gpus} == {
        ("580.159.04", "Default", False, 0, "Completed, Success")
    }


def test_a_captured_mismatch_of_driver_and_module() -> None:
    found = nvidia(captured("ubuntu24-h200-driver-mismatch"))
    assert isinstance(found, NvidiaFacts)
    assert found.version_mismatch is not None
    assert "Driver/library version mismatch NVML library version: 580.159" in found.version_mismatch
    assert found.module == KernelModule("580.159.04", open=True)
    assert isinstance(found.topology, Unknown)


SECTIONS = (
    *("clock_begin", "clock_end", "machine", "os_release", "limits", "engine_process", "filesystems", "interfaces"),
    *("routes", "hostname_addresses", "memory", "gpus", "gpu_topology", "nvidia_module", "nvidia_state", "acs"),
    *("rdma", "fib_trie"),
)
words = st.sampled_from(
    [
        *("a", "1", "9" * 30, "-1", ":", "\t", "\n", " ", "|", "/", ".", "mtu", "GPU0", "Max locked memory", "iommu/"),
        *("0A0B0C0D", "10.0.0.1", "999.1.1.1", "/32 host LOCAL", "|-- ", "pid\t", "CapEff: ", "ports/1/gids/0\t"),
        *("Kernel Module", "٣"),
    ]
)
bodies = st.lists(words, max_size=30).map("".join)


@given(st.dictionaries(st.sampled_from(SECTIONS), st.tuples(bodies, st.sampled_from([0, 0, 0, 1, 18, 44]))))
def test_garbage_never_raises(said: dict[str, tuple[str, int]]) -> None:
    found = {name: parse.Section(body, code) for name, (body, code) in said.items()}
    machine(found)
    nvidia(found)
    rdma(found)
    parse.addresses(found)


@pytest.mark.parametrize(
    ("text", "code", "expected"),
    [
        ('{"card0": {"Device ID": "0x74a1"}, "card1": {"Device ID": "0x74a1"}, "system": {}}', 0, 2),
        ('WARNING: AMD GPU device(s) is/are in a low-power state\n{"card0": {}}', 0, 1),
        ("", 44, None),
    ],
)
def test_amd_gpus_are_counted(text: str, code: int, expected: int | None) -> None:
    """By ROCm SMI's documentation; none could be captured."""
    assert amd_gpus({"rocm": parse.Section(text, code)}) == expected


@pytest.mark.parametrize("text", ["ERROR: no driver", "[]", "{"])
def test_what_is_no_list_of_amd_gpus_is_unknown(text: str) -> None:
    assert isinstance(amd_gpus({"rocm": parse.Section(text, 0)}), Unknown)


def test_no_driver() -> None:
    assert nvidia({"nvidia_state": parse.Section("", 44)}) is None
    assert isinstance(nvidia({}), Unknown)


def test_topology_with_hcas_and_without_nvlink() -> None:
    """By the form of the capture; GPUs over PCIe and HCAs were not to be had."""
    text = (
        "\t\x1b[4mGPU0\tGPU1\tNIC0\tNIC1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m\n"
        "GPU0\t X \tPHB\tPIX\tSYS\t0-31\t0\t\tN/A\nGPU1\tPHB\t X \tSYS\tPIX\t0-31\t0\t\tN/A\n"
        "NIC0\tPIX\tSYS\t X \tSYS\nNIC1\tSYS\tPIX\tSYS\t X \n\nLegend:\n\n  X    = Self\n\n"
        "NIC Legend:\n\n  NIC0: mlx5_0\n  NIC1: mlx5_1\n"
    )
    found = topology({"gpu_topology": parse.Section(text, 0)})
    assert isinstance(found, Topology)
    assert found.without_nvlink([0, 1]) == (("GPU0", "GPU1", "PHB"),)
    assert found.nics == {"NIC0": "mlx5_0", "NIC1": "mlx5_1"}
    assert found.links["NIC1"]["GPU1"] == "PIX"
    assert isinstance(topology({"gpu_topology": parse.Section("Failed", 0)}), Unknown)


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        ("1000.500000000", "1001.000000000", Clock(0.0, 0.5)),  # asked at 1000, answered at 1001.5
        ("1007.500000000", "1008.000000000", Clock(7.0, 0.5)),
        ("1000.", "1001.", Clock(0.25, 0.75)),  # busybox: in whole seconds
        ("1000.%N", "1001.%N", Clock(0.25, 0.75)),
    ],
)
def test_the_clock_is_within_what_the_network_took(begin: str, end: str, expected: Clock) -> None:
    found = {"clock_begin": parse.Section(begin, 0), "clock_end": parse.Section(end, 0)}
    assert clock(found, 1000.0, 1001.5) == expected


@pytest.mark.parametrize("begin", ["noon", "", "9" * 40])
def test_what_is_no_time_is_unknown(begin: str) -> None:
    found = {"clock_begin": parse.Section(begin, 0), "clock_end": parse.Section("1001.000000000", 0)}
    assert isinstance(clock(found, 1000.0, 1001.5), Unknown)


def test_a_clock_that_is_set_while_it_is_read_is_unknown() -> None:
    found = {"clock_begin": parse.Section("1000.000000000", 0), "clock_end": parse.Section("1100.000000000", 0)}
    assert isinstance(clock(found, 1000.0, 1001.5), Unknown)


def test_addresses_from_the_kernels_tables() -> None:
    table = kernel_routes(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
        "eth1\t00004D0A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
        "eth2\t00014D0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    trie = "|-- 10.77.1.5\n   /32 host LOCAL\n|-- 10.77.9.5\n   /32 host LOCAL\n|-- 127.0.0.1\n   /32 host LOCAL\n"
    trie += "|-- 10.77.1.255\n   /32 link BROADCAST\n|-- 198.51.100.1\n   /32 host LOCAL\n"
    assert kernel_addresses(trie, table) == (
        InterfaceAddress("eth2", IPv4Address("10.77.1.5")),
        InterfaceAddress("eth1", IPv4Address("10.77.9.5")),
        InterfaceAddress("lo", IPv4Address("127.0.0.1")),
    )


@pytest.mark.parametrize("table", ["head\neth0 1 2", "head\neth0 xx 0 0 0 0 0 0", "head\neth0 00 00 0 0 0 0 00"])
def test_what_is_no_routing_table(table: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        kernel_routes(table)


def test_the_probe_reads_a_machine_below_its_root(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu vme sse2\n",
            "proc/cmdline": "quiet iommu=pt\n",
            "proc/sys/kernel/hostname": "gpu1\n",
            "etc/hosts": "127.0.0.1 localhost\n127.0.1.1\tgpu1.example gpu1 # Debian\n10.0.0.2 gpu10\n",
            "var/run/docker.pid": "812",
            "proc/812/status": "Name:\tdockerd\nCapEff:\t000001fffeffffff\n",
            "proc/812/limits": LIMITS.format("8388608"),
            "proc/812/cmdline": f"dockerd\0--data-root\0{tmp_path}\0",
            "sys/class/net/eth1/mtu": "9000\n",
            "sys/class/net/eth1/operstate": "up\n",
            "sys/class/net/eth1/speed": "400000\n",
            "sys/class/net/bonding_masters": "\n",
            "run/systemd/system/x": "",
        },
    )
    found = machine(probe(tmp_path))
    assert (found.virtual, found.systemd, found.command_line) == (False, True, "quiet iommu=pt")
    assert found.own_addresses == (IPv4Address("127.0.1.1"),)
    assert found.engine_process == EngineProcess(812, 8388608, 524288, may_raise_limits=False)
    assert found.filesystem(str(tmp_path)) is not None
    assert isinstance(found.interfaces, tuple)
    assert [(i.name, i.mtu, i.speed_mbps) for i in found.interfaces] == [("eth1", 9000, 400000)]


def test_an_engine_of_root_may_raise_limits_and_a_stale_pid_file_is_none(tmp_path: Path) -> None:
    files = {"proc/9/status": "CapEff:\t000001ffffffffff\n", "proc/9/limits": LIMITS.format("unlimited")}
    write(tmp_path, {"var/run/docker.pid": "9\n", "proc/9/cmdline": "dockerd\0", **files})
    assert machine(probe(tmp_path)).engine_process == EngineProcess(9, -1, 524288, may_raise_limits=True)
    write(tmp_path, {"var/run/docker.pid": "10\n"})
    assert machine(probe(tmp_path)).engine_process is None


def test_the_probe_reads_a_driver_below_its_root(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    write(
        tmp_path,
        {
            "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.230.02  Sun Dec  1\n",
            "proc/driver/nvidia/gpus/0000:01:00.0/information": "",
            "proc/driver/nvidia-nvswitch/devices/0000:05:00.0": "",
            "proc/77/comm": "nv-fabricmanage\n",
            "sys/bus/pci/devices/0000:01:00.0/iommu_group/type": "DMA-FQ\n",
            "sys/module/nvidia_peermem/initstate": "live\n",
            "dev/char/195:255": "",
            "etc/cdi/nvidia.yaml": "",
            "proc/cpuinfo": "flags : fpu\n",
            "bin/nvidia-container-runtime-hook": "",
            "bin/nvidia-smi": (
                '#!/bin/sh\ncase "$*" in\n'
                "*fabric*) echo 'Field \"fabric.state\" is not a valid field to query.'; exit 2 ;;\n"
                "*query-gpu*) echo '0, NVIDIA A100, GPU-a, 81920, 4, 0:1:0.0, 535.2, Default, Enabled, 2' ;;\nesac\n"
            ),
            "bin/lspci": "#!/bin/sh\necho 'ACSCtl: SrcValid+ TransBlk-'; echo 'ACSCtl: SrcValid- TransBlk-'\n",
            "bin/id": "#!/bin/sh\necho 0\n",
        },
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    sections = probe(tmp_path, str(tools))
    found = nvidia(sections)
    assert isinstance(found, NvidiaFacts)
    assert found.module == KernelModule("535.230.02", open=False)
    assert (found.peermem, found.char_links, found.hook, found.cdi) == (True, True, True, True)
    assert (found.nvswitches, found.fabric_manager, found.acs_bridges) == (True, True, 1)
    assert found.iommu == {"0000:01:00.0": "DMA-FQ"}
    gpus = parse.gpus(sections)  # an older nvidia-smi, which does not know the fabric's columns
    assert isinstance(gpus, tuple)
    assert [(gpu.mig, gpu.ecc_uncorrected, gpu.fabric) for gpu in gpus] == [(True, 2, None)]
