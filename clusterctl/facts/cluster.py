"""What is there: values read from nodes, frozen.

A fact is a value, `None` (looked for and absent), or `Unknown` (the probe failed). Absent is not unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clusterctl.facts.fact import Fact, Unknown
from clusterctl.facts.records import (
    CacheVolume,
    ContainerFacts,
    EngineFacts,
    Gpu,
    GpuProcess,
    ImageFacts,
    InterfaceAddress,
    Listener,
    OtherCluster,
    Unreachable,
)
from clusterctl.hosts.engine.commands import DOCKER, EngineCommands

if TYPE_CHECKING:
    from clusterctl.facts.cdi import CdiSpec
    from clusterctl.facts.collective import Collective
    from clusterctl.facts.image_report import ImageReport, RunFailed
    from clusterctl.facts.model_files import ModelFiles
    from clusterctl.facts.nvidia import NvidiaFacts
    from clusterctl.facts.pairs import Pairs
    from clusterctl.facts.rdma import RdmaPort
    from clusterctl.facts.routing import Routing
    from clusterctl.facts.system import SystemFacts


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
    """Ports of RDMA devices; None where the kernel has no RDMA support loaded."""
    system: SystemFacts
    nvidia: Fact[NvidiaFacts]
    """The NVIDIA driver and what belongs to it; None where it is not loaded."""
    amd_gpus: Fact[int]
    """AMD GPUs by rocm-smi; None where it is not installed."""
    model: Fact[ModelFiles]
    engine: Fact[EngineFacts]
    image: Fact[ImageFacts]
    containers: tuple[ContainerFacts, ...] | Unknown
    """Those that hold the server's ranks, or should: one a node."""
    leftovers: tuple[str, ...]
    """IDs of probes' containers that a killed clusterctl left behind, never started."""
    beside: tuple[ContainerFacts, ...] = ()
    """The cluster's containers of other roles (an exporter, say)."""
    others: tuple[OtherCluster, ...] = ()
    """Containers of other clusters; only looked for where one of this cluster's ports is taken."""
    amd_render_nodes: Fact[tuple[str, ...]] = None
    """Render devices of AMD's GPUs, in the order in which ROCm counts them; None where its driver is not loaded."""
    gpu_remarks: tuple[str, ...] = ()
    """What nvidia-smi printed beside the rows that could be read."""
    login_prints: str = ""
    """What the login printed before the output of our commands, quoted; empty when nothing."""
    cdi: tuple[CdiSpec, ...] | Unknown = ()
    """CDI specifications on the node."""
    routing: Fact[Routing] = None
    """How the kernel sends to the other nodes; None: not asked (one node), or no `ip` there."""
    cache: Fact[CacheVolume] = None
    """The cluster's volume of compiled code."""
    commands: EngineCommands = DOCKER
    """How the node's engine is spoken to: for hints, also where it does not answer."""


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
