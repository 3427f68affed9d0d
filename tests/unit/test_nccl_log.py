"""NCCL's lines. Captures of one machine with two H200 (driver 580.159.04, torch 2.11.0, NCCL 2.28.9), fixtures/nccl:
one-node: two ranks of one node; socket-*: two ranks as two hosts (NCCL_HOSTID), without RDMA; ibonly-*: the same with
NCCL_NET=IB; nosuch-*: an interface that is not there; alone-*: the other rank never comes. Lines of machines with RDMA
are shortened from public reports, with their source."""

from __future__ import annotations

import pytest

from clusterctl.facts.collective import read_run
from clusterctl.signatures import nccl as nccl_log
from tests.unit.support import FIXTURES


def capture(name: str) -> list[str]:
    return (FIXTURES / "nccl" / f"{name}.log").read_text(encoding="utf-8").splitlines()


def test_ranks_of_one_node_talk_through_nvlink_and_no_network() -> None:
    way = nccl_log.transport(capture("one-node"))
    assert way.version == "2.28.9+cuda13.0"
    assert way.channels == {}
    assert way.local == {"P2P/CUMEM": 48}
    assert way.bootstrap == ("eth0", "192.0.2.2")


@pytest.mark.parametrize("host", ["gpu1", "gpu2"])
def test_ranks_of_two_nodes_without_rdma_talk_over_tcp(host: str) -> None:
    way = nccl_log.transport(capture(f"socket-{host}"))
    assert way.over_tcp
    assert (way.network, way.channels, way.gdrdma, way.hcas) == ("Socket", {"Socket": 4}, 0, ())


@pytest.mark.parametrize(
    ("line", "net", "gdrdma"),
    [
        # NVIDIA/nccl#707 (2.12), #1814, nccl-tests#227 (2.21); failure-modes.md, "NCCL channel lines"
        ("h:1:2 [0] NCCL INFO Channel 01 : 2[c7000] -> 0[87000] [send] via NET/IB/2/GDRDMA", "IB", 1),
        ("h:987:1260 [7] NCCL INFO Channel 03/0 : 47[7] -> 39[7] [receive] via NET/IBext_v8/2", "IBext_v8", 0),
        ("gpu36:1:2 [1] NCCL INFO Channel 00/0 : 3[1] -> 4[0] [send] via NET/IBext_v8/5(2)/GDRDMA", "IBext_v8", 1),
        ("h:1:2 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[0] [send] via NET/IB/0/GDRDMA(PCI)/Shared", "IB", 1),
        ("h:1:2 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[0] [send] via NET/Socket/0/Shared", "Socket", 0),
        ("h:1:2 [0] NCCL INFO Ring 00 : 7 -> 8 [receive] via NET/AWS Libfabric/0", "AWS Libfabric", 0),
        ("\x1b[36m(RayWorkerProc pid=9)\x1b[0m NCCL INFO Channel 0/0 : 0[0] -> 1[0] [send] via NET/IB/0", "IB", 0),
    ],
)
def test_channels_over_a_network(line: str, net: str, gdrdma: int) -> None:
    way = nccl_log.transport([line])
    assert (way.channels, way.gdrdma) == ({net: 1}, gdrdma)


def test_support_is_not_use() -> None:
    way = nccl_log.transport(["h:1:2 [0] NCCL INFO GPU Direct RDMA (DMABUF) enabled for GPU 0 / HCA 0"])
    assert (way.channels, way.gdrdma) == ({}, 0)


@pytest.mark.parametrize(
    ("line", "hcas"),
    [
        (
            "w:5771 [0] NCCL INFO NET/IB : Using [0]irdma0:1/RoCE [1]irdma3:1/RoCE [RO]; OOB eth0:172.16.121.86<0>",
            ("irdma0:1", "irdma3:1"),
        ),
        ("h [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [1]mlx5_10:1/IB; OOB i:1.2.3.4<0>", ("mlx5_0:1", "mlx5_10:1")),
        (
            "h [0] NCCL INFO NET/IB : Using [0]={[0] rocep130s0:1/RoCE, [1] rocep130s0:2/RoCE} [RO]; OOB e:10.0.0.1<0>",
            ("rocep130s0:1", "rocep130s0:2"),
        ),
        ("vm:584:584 [0] NCCL INFO NET/IB : Using [RO]; OOB eth0:192.0.2.2<0>", ()),
    ],
)  # fmt: skip
def test_hcas_that_nccl_took(line: str, hcas: tuple[str, ...]) -> None:
    assert nccl_log.transport([line]).hcas == hcas


@pytest.mark.parametrize(
    ("line", "failure_mode"),
    [
        ("h:1:2 [0] misc/ibvwrap.cc:187 NCCL WARN Call to ibv_create_qp failed", "F22"),
        ("w [0] NCCL WARN NET/IB : Got completion from peer 10.0.0.1<55921> with status=1 opcode=128 len=0", "F34"),
        ("h:1:2 [0] NCCL WARN Call to ibv_reg_mr_iova2 failed with error Cannot allocate memory", "F22"),
        ("h:1 [0] NCCL INFO Failed to open libibverbs.so[.1]", "F24"),
        ("h:1 [0] NCCL INFO dlvsym failed on mlx5dv_get_data_direct_sysfs_path - undefined symbol", "F25"),
        ("ibvwrap.c:262 NCCL WARN Call to ibv_modify_qp failed with 110 Connection timed out, on dev x:1", "F33"),
        ("h:1 [0] misc/ibvwrap.cc:187 NCCL WARN Call to ibv_modify_qp failed with error Network is unreachable", "F32"),
        ("w [0] NCCL WARN NET/IB : Got completion with error 12, opcode 1, len 0, vendor err 129", "F32"),
        ("NCCL WARN NET/IB : Got completion from peer 10.0.0.1<55921> with status=12 opcode=1 len=0", "F32"),
        ("h:1 [0] NCCL WARN Error: failed to extend /dev/shm/nccl-x7y to 4194660 bytes", "F21"),
        ("RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)", "F54"),
        ("h:1 [0] NCCL WARN Message truncated : received 524288 bytes instead of 65536", "F56"),
        ("[c10d] Gloo connectFullMesh failed with connect: remote=[127.0.0.1]:1234", "F5"),
    ],
)  # fmt: skip
def test_lines_that_explain_a_failure(line: str, failure_mode: str) -> None:
    assert [cause.failure_mode for cause in nccl_log.causes([line])][:1] == [failure_mode]


@pytest.mark.parametrize(
    ("name", "failure_mode", "joined"),
    [("ibonly-gpu1", "F23", (0,)), ("nosuch-gpu1", "F26", (0,)), ("alone-gpu1", "F55", ())],
)
def test_captured_failures_are_explained(name: str, failure_mode: str, joined: tuple[int, ...]) -> None:
    run = read_run(capture(name))
    assert run.causes[0].failure_mode == failure_mode
    assert run.joined == joined
    assert list(run.errors) == [0]
    assert not run.reduced


def test_a_captured_success_has_its_times_and_no_cause_of_failure() -> None:
    run = read_run(capture("socket-gpu1"))
    assert run.reduced == {0: pytest.approx(0.0648, abs=0.001)}
    assert run.errors == {}
