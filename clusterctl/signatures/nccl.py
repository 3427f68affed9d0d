"""Every pattern of NCCL's log lines (NCCL_DEBUG=INFO), in one place, with the versions they were seen in.

Log lines are text without a contract. They are read for one question only, which NCCL answers nowhere else: over what
did the ranks talk? When a pattern no longer matches, the answer is "not seen", never "fine".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from clusterctl.signatures.signature import ANSI, Explanation, Signature, explained

# Seen in NCCL 2.12 to 2.28: `Channel 00/0 : 1[1] -> 0[0] [send] via NET/IB/0/GDRDMA`, `… NET/IBext_v8/5(2)/GDRDMA`,
# `… NET/Socket/0`; `Channel 00 : 1[c7000] -> …` before 2.19. The documented `NET/IB/GDRDMA` is never printed.
_NET_CHANNEL = re.compile(
    r"\[(?P<way>send|receive)\] via NET/(?P<net>[\w ]+)/\d+(?:\(\d+\))?(?P<gdr>/GDRDMA(?:\(PCI\))?)?(?:/Shared)?"
)


# `Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM`, `… via SHM/direct/direct`, `… via P2P/IPC/read`.
_LOCAL_CHANNEL = re.compile(r"Channel \d+(?:/\d+)? : .* via (?P<path>P2P/\w+|SHM)")


_VERSION = re.compile(r"NCCL version (?P<version>\d+\.\d+\.\d+(?:\+\w+[\d.]*)?)")


# `Bootstrap : Using eth0:…` up to 2.26, `Bootstrap: Using …` from 2.27.
_BOOTSTRAP = re.compile(r"Bootstrap ?: Using (?P<interface>[^\s:]+):(?P<address>[\d.]+)<\d+>")


# `NET/IB : Using [0]mlx5_0:1/RoCE [1]mlx5_1:1/IB [RO]; OOB eth0:…`; without a device `NET/IB : Using [RO]; OOB …`.
_HCAS = re.compile(r"NET/IB : Using (?P<list>.*?)(?:\[RO\])?; OOB")


_HCA = re.compile(r"(?P<name>[\w.-]+:\d+)/(?:IB|RoCE)")


_NETWORK = re.compile(r"Using network (?P<name>[\w ]+?)\s*$")


@dataclass(frozen=True)
class Transport:
    """What one node's ranks logged about the path to other ranks."""

    version: str | None
    network: str | None
    """The network that NCCL chose: IB, IBext_v8, Socket …"""
    channels: Mapping[str, int]
    """Network → number of channels to other nodes over it; empty where there are none, or none was seen."""
    gdrdma: int
    """How many of them go past the CPU's memory (GPUDirect RDMA)."""
    local: Mapping[str, int]
    """Path inside the node (P2P/CUMEM, SHM …) → number of channels."""
    hcas: tuple[str, ...]
    """HCAs that NCCL took, as mlx5_0:1."""
    bootstrap: tuple[str, str] | None
    """Interface and address of NCCL's own first connections."""

    @property
    def over_tcp(self) -> bool:
        """Whether something between nodes went over TCP."""
        return "Socket" in self.channels


def transport(lines: Iterable[str]) -> Transport:
    """What the lines of one node's ranks say about their path to the others."""
    clean = [ANSI.sub("", line) for line in lines]
    nets = [found for line in clean if (found := _NET_CHANNEL.search(line))]
    local = Counter(found["path"] for line in clean if (found := _LOCAL_CHANNEL.search(line)))
    boot = _first(_BOOTSTRAP, clean)
    version, network = _first(_VERSION, clean), _first(_NETWORK, clean)
    return Transport(
        version=version["version"] if version else None,
        network=network["name"] if network else None,
        channels=dict(Counter(found["net"] for found in nets)),
        gdrdma=sum(found["gdr"] is not None for found in nets),
        local=dict(local),
        hcas=tuple(dict.fromkeys(_hcas(clean))),
        bootstrap=(boot["interface"], boot["address"]) if boot else None,
    )


def _first(pattern: re.Pattern[str], lines: Iterable[str]) -> re.Match[str] | None:
    return next((found for line in lines if (found := pattern.search(line))), None)


def _hcas(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if found := _HCAS.search(line):
            yield from (hca["name"] for hca in _HCA.finditer(found["list"]))


# From failure-modes.md. The lines were seen in NCCL's own issue threads (2.3 to 2.29) and, of the TCP ones, on a
# machine with two H200 (NCCL 2.28.9). The most specific first.
SIGNATURES: tuple[Signature, ...] = (
    Signature(
        r"Failed to bind NVLink SHARP|transport/nvls\.cc:\d+ NCCL WARN",
        name="nvlink-multicast",
        meaning="NCCL could not use NVLink multicast (NVLS): fabric manager, NVSwitches or a guest do not allow it",
        fix='container.env NCCL_NVLS_ENABLE: "0"; or repair it: systemctl status nvidia-fabricmanager on the node',
    ),
    Signature(
        r"ibv_(?:reg_mr\w*|create_qp|create_cq|alloc_pd).*(?:failed|Cannot allocate memory)",
        name="memlock-in-container",
        failure_mode="F22",
        meaning="RDMA memory could not be registered: locked memory is limited",
        fix="container.ulimits memlock: -1 and container.cap_add [IPC_LOCK]",
    ),
    Signature(
        r"ibv_modify_qp failed.*(?:110|timed out).*|errno 110",
        name="rails-not-connected",
        failure_mode="F33",
        meaning="two HCAs cannot reach each other: rails that are not connected to each other, or a wrong RoCE GID",
        fix='container.env NCCL_CROSS_NIC: "0" if the rails are separate; unset NCCL_IB_GID_INDEX; ping each rail',
    ),
    Signature(
        r"ibv_modify_qp failed|[Gg]ot completion (?:with|from peer).*(?:error |status=)12\b",
        name="rdma-timeout",
        failure_mode="F32",
        meaning="the HCAs stopped responding or never did: a wrong RoCE GID, or the fabric drops packets",
        fix=(
            "unset NCCL_IB_GID_INDEX (NCCL 2.21 and newer pick the right one); run show_gids; open UDP 4791 on "
            "the switches"
        ),
    ),
    Signature(
        r"LOC_LEN_ERR|[Gg]ot completion (?:with|from peer).*(?:error |status=)1\b",
        name="mtu-differs",
        failure_mode="F34",
        meaning="a message was larger than the other side accepts: the MTU differs between the nodes or their HCAs",
        fix="set the same MTU on every node and on the switches between them: clusterctl check (mtu-differs, mtu-path)",
    ),
    Signature(
        r"Failed to initialize any NET plugin",
        name="rdma-required",
        failure_mode="F23",
        meaning="NCCL may use RDMA only (NCCL_NET=IB) and found no HCA in the container",
        fix=(
            "check /dev/infiniband on the node, and that its ports are ACTIVE: "
            "cat /sys/class/infiniband/*/ports/*/state"
        ),
        harmless=True,
    ),
    Signature(
        r"Failed to open libibverbs\.so",
        name="libibverbs-missing",
        failure_mode="F24",
        meaning="the image has no RDMA library, so NCCL talks over TCP",
        fix="use an image with rdma-core (Debian: libibverbs1, ibverbs-providers)",
        harmless=True,
    ),
    Signature(
        r"dlvsym failed on mlx5dv_\w+|dlvsym failed on ibv_\w+",
        name="rdma-library-too-old",
        failure_mode="F25",
        meaning="the image's RDMA library is older than NCCL expects",
        fix="use an image with a newer rdma-core",
        harmless=True,
    ),
    Signature(
        r"NET/IB : No device found",
        name="no-rdma-device",
        failure_mode="F23",
        meaning="NCCL found no HCA in the container: none on the node, none ACTIVE, or not passed to it",
        fix="cat /sys/class/infiniband/*/ports/*/state on the node; ls /dev/infiniband; inventory rdma: auto",
        harmless=True,
    ),
    Signature(
        r"Bootstrap ?: no socket interface found|No interface found (?:with|matching)|no socket interface found",
        name="nccl-interface-missing",
        failure_mode="F26",
        meaning="NCCL found no interface with the name that it was given",
        fix="NCCL_SOCKET_IFNAME must name the interface in network.cidr; clusterctl check prints it for each node",
        consequence=True,
    ),
    Signature(
        r"Gloo connectFullMesh failed",
        name="hostname-loopback",
        failure_mode="F5",
        meaning="ranks connect to an address that leads nowhere, often 127.0.0.1 behind the host name",
        fix="correct /etc/hosts on the named node; GLOO_SOCKET_IFNAME is set by clusterctl",
    ),
    Signature(
        r"Timed out after \d+ seconds waiting for clients\. (?P<joined>\d+/\d+) clients joined",
        name="rendezvous-timeout",
        failure_mode="F55",
        meaning="not all ranks reached the rendezvous on the head",
        fix="look at the nodes that logged nothing, then for a blocked port between them and the head",
        consequence=True,
    ),
    Signature(
        r"failed to extend /dev/shm|No space left on device.*/dev/shm|Error while creating shared memory segment",
        name="shm-too-small",
        failure_mode="F21",
        meaning="the container's /dev/shm is too small",
        fix="raise container.shm_bytes",
    ),
    Signature(
        r"receiving \d+ bytes instead of \d+|Message truncated",
        name="nccl-differs",
        failure_mode="F56",
        meaning="the nodes' NCCL versions or NCCL_* variables differ",
        fix="use the same image on every node, and the same NCCL_* in container.env",
    ),
    Signature(
        r"(?:Connection refused|No route to host|connect.* timed out|exceeded error retry count)",
        name="peer-unreachable",
        failure_mode="F26",
        meaning="a rank could not reach another one",
        fix="clusterctl check tests every port between every pair; look for a firewall or a wrong interface",
        consequence=True,
    ),
    Signature(
        r"unhandled system error|ncclSystemError|ncclInternalError|unhandled cuda error|ncclUnhandledCudaError",
        name="nccl-failed",
        failure_mode="F54",
        meaning="NCCL failed in a call to the system or to CUDA",
        fix="read its WARN lines; check container.cap_add [IPC_LOCK] and container.shm_bytes",
    ),
)


def causes(lines: Iterable[str]) -> tuple[Explanation, ...]:
    """What the lines mean, the most specific first (the order of the table above)."""
    return explained(SIGNATURES, lines)


def warnings(lines: Iterable[str], limit: int) -> tuple[str, ...]:
    """The lines that warn, the first ones first; without any, the last lines."""
    clean = [stripped for line in lines if (stripped := ANSI.sub("", line).strip())]
    warned = [line for line in clean if "NCCL WARN" in line or "Error" in line]
    return tuple(warned[:limit] or clean[-limit:])
