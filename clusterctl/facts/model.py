"""What is there: values read from nodes, frozen.

A fact is a value, `None` (looked for and absent), or `Unknown` (the probe failed). Absent is not unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from clusterctl.facts.collective import Collective
    from clusterctl.facts.image_report import ImageReport, RunFailed
    from clusterctl.facts.model_files import ModelFiles
    from clusterctl.facts.nvidia import NvidiaFacts
    from clusterctl.facts.pairs import Pairs
    from clusterctl.facts.rdma import RdmaPort
    from clusterctl.facts.system import SystemFacts

T = TypeVar("T")


@dataclass(frozen=True)
class Unknown:
    """A probe failed: nothing can be said, least of all «none»."""

    reason: str


Fact: TypeAlias = T | Unknown | None


@dataclass(frozen=True)
class InterfaceAddress:
    """One IPv4 address of one network interface."""

    interface: str
    address: IPv4Address


@dataclass(frozen=True)
class Listener:
    """A TCP socket that accepts connections. `process` is «name (pid N)» where the node let us see it."""

    address: str
    port: int
    process: str | None = None


@dataclass(frozen=True)
class Gpu:
    """One accelerator as nvidia-smi names it; memory in MiB, None where it has none of its own (unified memory: DGX
    Spark)."""

    index: int
    name: str
    uuid: str
    memory_total_mib: int | None
    memory_used_mib: int | None
    pci_address: str = ""
    driver_version: str = ""
    compute_mode: str = "Default"
    mig: bool = False
    """Whether it is divided (multi-instance GPU)."""
    ecc_uncorrected: int | None = None
    """Uncorrected memory errors since the driver was loaded; None where it does not count them."""
    fabric: str | None = None
    """State of its registration in the NVLink fabric and how it ended («Completed, Success»); None: no such fabric, or
    a driver that does not tell."""


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds GPU memory."""

    gpu_uuid: str
    pid: int
    name: str
    memory_mib: int | None


@dataclass(frozen=True)
class EngineFacts:
    """The container engine."""

    version: str
    cgroup_driver: str
    runtimes: tuple[str, ...]
    data_root: str
    time: str = ""
    """Its clock when it was asked (RFC 3339)."""


@dataclass(frozen=True)
class ImageFacts:
    """An image: its ID, and its layers (equal layers are the same content under another ID: lab-facts)."""

    id: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class ContainerFacts:
    """A container that carries this cluster's label."""

    id: str
    name: str
    labels: Mapping[str, str]
    status: str
    """Docker's state: created, running, restarting, exited, dead …"""
    exit_code: int
    started_at: str
    restart_policy: str
    """Docker's: no, always …"""
    restart_count: int
    """How often the engine has started it again by that policy, since it last was started by hand."""
    spec: Fact[Mapping[str, Any]]
    """What it was started with (/etc/clusterctl/spec.json)."""
    state: Fact[Mapping[str, Any]]
    """What its agent says it is doing (/run/clusterctl/state.json)."""
    created_at: str = ""
    """When it was made, by the engine's clock (RFC 3339)."""

    @property
    def agent(self) -> Mapping[str, Any]:
        """What its agent has said last (`state`); empty when that could not be read."""
        return self.state if isinstance(self.state, Mapping) else {}

    @property
    def running(self) -> bool:
        """Whether its processes run."""
        return self.status == "running"

    @property
    def ended(self) -> bool:
        """Whether it does not run and nobody will start it again: the engine's restart policy starts what has ended,
        after a while in which it is `restarting`."""
        return self.status not in ("running", "restarting")


@dataclass(frozen=True)
class NodeFacts:
    """Everything read from one node in one pass."""

    hostname: Fact[str]
    kernel: Fact[str]
    memory_available_bytes: Fact[int]
    addresses: tuple[InterfaceAddress, ...] | Unknown
    listeners: tuple[Listener, ...] | Unknown
    gpus: Fact[tuple[Gpu, ...]]
    gpu_processes: Fact[tuple[GpuProcess, ...]]
    infiniband: Fact[tuple[str, ...]]
    """Device nodes below /dev/infiniband."""
    rdma: Fact[tuple[RdmaPort, ...]]
    """Ports of RDMA devices; None where the kernel has no RDMA support loaded. facts/rdma.py: hca_of()."""
    system: SystemFacts
    nvidia: Fact[NvidiaFacts]
    """The NVIDIA driver and what belongs to it; None where it is not loaded."""
    amd_gpus: Fact[int]
    """AMD GPUs by rocm-smi; None where it is not installed."""
    model: Fact[ModelFiles]
    engine: Fact[EngineFacts]
    image: Fact[ImageFacts]
    containers: tuple[ContainerFacts, ...] | Unknown
    """Those that are, or should be, a part of the cluster: probes are not among them."""
    leftovers: tuple[str, ...]
    """IDs of probes' containers that a killed clusterctl left behind, never started."""


@dataclass(frozen=True)
class Unreachable:
    """A node that SSH did not reach, with the reason and the fix."""

    reason: str
    fix: str | None


@dataclass(frozen=True)
class DeepFacts:
    """What running something on the nodes showed (facts/deep.py): a field for each such question."""

    images: Mapping[str, ImageReport | RunFailed | Unknown]
    """Node → what the image says there; only nodes that have it and an engine that answers."""
    gpus_wanted: int
    """GPUs that each of these containers asked for."""
    pairs: Pairs | None = None
    """What passes between the nodes; None with fewer than two nodes to ask."""
    collective: Collective | Unknown | None = None
    """The all-reduce across the nodes; None: not asked (without --nccl)."""


@dataclass(frozen=True)
class ClusterFacts:
    """One pass over all nodes, in inventory order."""

    nodes: Mapping[str, NodeFacts]
    unreachable: Mapping[str, Unreachable]
    deep: DeepFacts | None = None
    """None: not asked (`up` does not, unless told to)."""
    digests: Mapping[str, Mapping[str, str] | Unknown] | None = None
    """Node → digests of all bytes of the model's files (facts/model_bytes.py); None: not asked (without --full)."""
