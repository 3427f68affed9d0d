"""Small records of what was read on a node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Literal

from clusterctl.agent.state import AgentState, agent_state
from clusterctl.facts.fact import Fact


@dataclass(frozen=True)
class InterfaceAddress:
    """One IPv4 address of one network interface."""

    interface: str
    address: IPv4Address
    prefix: int = field(default=32, compare=False)
    """Length of its network's prefix; 32 where it is not known."""

    @property
    def network(self) -> IPv4Network:
        """The network that it is in."""
        return IPv4Network((self.address, self.prefix), strict=False)


@dataclass(frozen=True)
class Listener:
    """A TCP socket that accepts connections. `process` is `name (pid N)` where the node let us see it."""

    address: str
    port: int
    process: str | None = None


@dataclass(frozen=True)
class Gpu:
    """One accelerator as nvidia-smi names it; memory in MiB, None where it has none of its own (`unified`), or where it
    could not be read."""

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
    """State of its registration in the NVLink fabric and how it ended (`Completed, Success`); None: no such fabric, or
    a driver that does not tell."""
    memory_unread: bool = False
    """Whether nvidia-smi answered something else than a number or `[N/A]` for its memory (`[Unknown Error]`)."""

    @property
    def unified(self) -> bool:
        """Whether it has no memory but the machine's: nvidia-smi prints `[N/A]`, for there is no frame buffer (DGX
        Spark User Guide, known issues)."""
        return self.memory_total_mib is None and not self.memory_unread


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds GPU memory."""

    gpu_uuid: str
    pid: int
    name: str
    memory_mib: int | None
    container: str | None = None
    """The container that it runs in, by its name, else its ID; None: in none, or not known."""


@dataclass(frozen=True)
class OtherCluster:
    """A running container of another cluster on the node."""

    cluster: str
    container: str
    pids: frozenset[int]
    """Its processes, as the node sees them."""
    gpus: frozenset[str] = frozenset()
    """UUIDs of its GPUs."""


@dataclass(frozen=True)
class EngineFacts:
    """The container engine."""

    version: str
    cgroup_driver: str
    runtimes: tuple[str, ...]
    data_root: str
    time: str = ""
    """Its clock when it was asked (RFC 3339)."""
    confines: tuple[str, ...] = ()
    """What it confines containers with: seccomp, apparmor, selinux …"""
    cdi_directories: tuple[str, ...] = ()
    """Where it looks for CDI specifications; none: it does not give devices by CDI."""
    cdi_devices: tuple[str, ...] = ()
    """Devices that it found there, as `nvidia.com/gpu=0`, where it says so (Docker from 28.2 on)."""
    kind: Literal["docker", "podman"] = "docker"
    """Which engine it is."""
    rootless: bool = False
    """Whether it is a user's own, without root."""

    @property
    def major(self) -> int | None:
        """First number of its version; None where it says something else."""
        number = self.version.partition(".")[0]
        return int(number) if number.isascii() and number.isdigit() else None


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

    @cached_property
    def agent(self) -> AgentState:
        """Its agent's latest report; one that knows nothing when it could not be read."""
        return agent_state(self.state)

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
class Unreachable:
    """A node that SSH did not reach, with the reason and the fix."""

    reason: str
    fix: str | None


@dataclass(frozen=True)
class CacheVolume:
    """The engine's volume in which a node keeps the cluster's compiled code."""

    name: str
    directory: str
    """Where it lies on the node, as the engine says."""
