"""Who is which rank, on which address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Literal

from clusterctl.inventory.endpoint import endpoint_of
from clusterctl.inventory.layout import Layout
from clusterctl.inventory.model import Inventory

GpuWay = Literal["toolkit", "cdi", "files"]
"""How a container asks its engine for GPUs; `files`: the device files of ROCm."""


@dataclass(frozen=True)
class GpuRequest:
    """What a container asks for."""

    way: GpuWay
    count: int
    names: tuple[str, ...]
    """Which ones; none: whichever the engine takes."""
    why: str
    """Why it is this way."""
    uuids: tuple[str, ...] = ()
    """Which GPUs these are now, as far as that is known."""


@dataclass(frozen=True)
class Place:
    """One node's part in the gang."""

    name: str
    role: Literal["head", "worker"]
    address: IPv4Address
    interfaces: tuple[str, ...]
    """Those that Gloo and NCCL connect through, the first for what takes only one."""
    image_id: str
    infiniband: bool
    """Whether RDMA devices are passed to the container."""
    hcas: tuple[str, ...] = ()
    """RDMA ports that NCCL shall use, as mlx5_0:1; where there are none, those to keep it from, as ^mlx5_0:1; empty
    without RDMA."""
    gpus: GpuRequest | None = None
    """How the container asks for its GPUs; None where it has none."""


@dataclass(frozen=True)
class Deployment:
    """What `up` wants to exist, with everything that facts decide already decided."""

    inventory: Inventory
    layout: Layout
    places: Mapping[str, Place]

    @property
    def head(self) -> Place:
        """The head's place."""
        return self.places[self.inventory.head_name]

    @property
    def endpoint(self) -> str:
        """Base URL that a client on the private network uses."""
        return endpoint_of(self.inventory, self.head.address)
