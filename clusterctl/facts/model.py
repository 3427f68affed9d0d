"""What is there: values read from nodes, frozen.

A fact is a value, `None` (looked for and absent), or `Unknown` (the probe failed). Absent is not unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from clusterctl.facts.image_report import ImageReport, RunFailed
    from clusterctl.facts.rdma import RdmaPort

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


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds GPU memory."""

    gpu_uuid: str
    pid: int
    name: str
    memory_mib: int | None


@dataclass(frozen=True)
class ModelFiles:
    """The model's directory: sizes by file name, and the shard index as (shard names), where there is one."""

    sizes: Mapping[str, int]
    config: Fact[Mapping[str, Any]]
    index_shards: Fact[tuple[str, ...]]


@dataclass(frozen=True)
class EngineFacts:
    """The container engine."""

    version: str
    cgroup_driver: str
    runtimes: tuple[str, ...]
    data_root: str


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
    spec: Fact[Mapping[str, Any]]
    """What it was started with (/etc/clusterctl/spec.json)."""
    state: Fact[Mapping[str, Any]]
    """What its agent says it is doing (/run/clusterctl/state.json)."""

    @property
    def running(self) -> bool:
        """Whether its processes run."""
        return self.status == "running"


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
    model: Fact[ModelFiles]
    engine: Fact[EngineFacts]
    image: Fact[ImageFacts]
    containers: tuple[ContainerFacts, ...] | Unknown


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


@dataclass(frozen=True)
class ClusterFacts:
    """One pass over all nodes, in inventory order."""

    nodes: Mapping[str, NodeFacts]
    unreachable: Mapping[str, Unreachable]
    deep: DeepFacts | None = None
    """None: not asked (`up` does not, unless told to)."""
