"""How fast accelerators reach each other, inside a node and between nodes: measured where it was, else as it is named.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from clusterctl.deployment.gpus import used_gpus
from clusterctl.deployment.rdma import ports_of_network
from clusterctl.deployment.way import way_of
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.collective import Collective
from clusterctl.facts.nvidia import NvidiaFacts, Topology
from clusterctl.facts.records import Gpu
from clusterctl.inventory.model import Inventory
from clusterctl.layout.hardware import accelerator

PCIE_BYTES_PER_S = 20e9
"""Between GPUs of a node without NVLink: what PCIe 4.0 x16 carries in one direction, less its overhead. Nominal."""

LATENCY_S = {"NVLink": 12e-6, "PCIe": 20e-6, "RDMA": 30e-6, "TCP": 60e-6}
"""For one small all-reduce: orders of magnitude, of nccl-tests' published results. Over TCP a measured round trip
between the nodes counts instead."""

_NVLINKS = re.compile(r"NV(\d+)")


@dataclass(frozen=True)
class Link:
    """What carries data between ranks."""

    name: str
    """`NVLink`, `PCIe`, `RDMA` or `TCP`."""
    bytes_per_s: float
    """In one direction; of a collective, its bus bandwidth."""
    latency_s: float
    """Of one small all-reduce."""
    measured: bool
    """Whether the rate was measured in this run; else it is the one that the link is named for."""

    @property
    def text(self) -> str:
        """`TCP, 2.6 GB/s measured`."""
        return f"{self.name}, {self.bytes_per_s / 1e9:.3g} GB/s {'measured' if self.measured else 'nominal'}"


def inside(inventory: Inventory, facts: ClusterFacts, per_node: int) -> Link | None:
    """Between the accelerators of one node that are used, the slowest pair of any node; None where there are none or it
    is not known."""
    used = [(node, used_gpus(inventory, name, node)[:per_node]) for name, node in facts.nodes.items()]
    links = [link for node, gpus in used if (link := _inside_node(node, gpus)) is not None]
    return min(links, key=lambda link: link.bytes_per_s, default=None) if len(links) == len(facts.nodes) else None


def _inside_node(node: NodeFacts, gpus: tuple[Gpu, ...]) -> Link | None:
    topology = node.nvidia.topology if isinstance(node.nvidia, NvidiaFacts) else None
    if not isinstance(topology, Topology) or len(gpus) < 2:
        return None
    names = [f"GPU{gpu.index}" for gpu in gpus]
    pairs = [topology.links.get(one, {}).get(other) for one, other in combinations(names, 2)]
    figures = accelerator(gpus[0].name)
    widths = [int(match[1]) if (match := _NVLINKS.fullmatch(how or "")) else 0 for how in pairs]
    if not widths or not min(widths) or figures is None or not figures.nvlink_bytes_per_s:
        return Link("PCIe", PCIE_BYTES_PER_S, LATENCY_S["PCIe"], measured=False)
    return Link("NVLink", min(widths) * figures.nvlink_bytes_per_s, LATENCY_S["NVLink"], measured=False)


def between(inventory: Inventory, facts: ClusterFacts) -> Link | None:
    """Between the nodes: an all-reduce that was run (`check --nccl`) before a stream that was sent (`--bandwidth`)
    before what ports and interfaces are named for; None with one node, and where nothing tells."""
    if len(inventory.nodes) < 2:
        return None
    rdma = inventory.rdma != "off" and all(_rdma_rate(inventory, name, facts) for name in facts.nodes)
    name = "RDMA" if rdma else "TCP"
    deep = facts.deep
    if deep is not None and isinstance(deep.collective, Collective):
        rate = deep.collective.bus_gbyte_per_s
        if rate is not None and deep.collective.backend == "nccl":
            return Link(name, rate * 1e9, _latency(facts, name), measured=True)
    if not rdma and deep is not None and deep.pairs is not None and deep.pairs.gbit_per_s:
        rate = min(deep.pairs.gbit_per_s.values())
        return Link(name, rate * 1e9 / 8, _latency(facts, name), measured=True)
    rates = [*_nominal(inventory, facts, rdma=rdma)]
    if len(rates) < len(facts.nodes) or not rates:
        return None
    return Link(name, min(rates), _latency(facts, name), measured=False)


def _latency(facts: ClusterFacts, name: str) -> float:
    """Of one small all-reduce between the nodes, in seconds: over TCP at least the longest median round trip."""
    pairs = facts.deep.pairs if facts.deep is not None else None
    trips = [link.median_us for link in pairs.links.values() if link.median_us is not None] if pairs else []
    return max(LATENCY_S[name], max(trips) * 1e-6) if trips and name == "TCP" else LATENCY_S[name]


def _nominal(inventory: Inventory, facts: ClusterFacts, *, rdma: bool) -> Iterator[float]:
    """Bytes a second of each node's way to the others, where it is known."""
    for name in facts.nodes:
        rate = _rdma_rate(inventory, name, facts) if rdma else _interface_rate(inventory, name, facts)
        if rate:
            yield rate


def _rdma_rate(inventory: Inventory, name: str, facts: ClusterFacts) -> float:
    """Bytes a second of all ports that NCCL is given; 0 where there are none, or their rates are not known."""
    return sum(port.gbit_per_s * 1e9 / 8 for port in ports_of_network(inventory, name, facts).used)


def _interface_rate(inventory: Inventory, name: str, facts: ClusterFacts) -> float:
    node, way = facts.nodes[name], way_of(inventory, name, facts)
    interfaces = node.system.interfaces if isinstance(node.system.interfaces, tuple) else ()
    speeds = [each.speed_mbps for each in interfaces if way is not None and each.name == way.interface]
    return next((speed * 1e6 / 8 for speed in speeds if speed is not None and speed > 0), 0.0)


@dataclass(frozen=True)
class Hardware:
    """The machines, as far as a layout depends on them."""

    nodes: tuple[str, ...]
    """Their names, the head's first."""
    per_node: int
    """Accelerators of each."""
    gpu: str | None
    """What all accelerators are called; None where they differ, or are not known."""
    gpu_memory_bytes: int | None
    """Of the smallest, with unified memory the machine's; None on CPUs, and where it could not be read."""
    inside: Link | None
    between: Link | None
    unified_memory: bool = False
    """Whether the GPUs have no memory but the machine's."""


def hardware(inventory: Inventory, facts: ClusterFacts, per_node: int, gpu_memory_bytes: int | None) -> Hardware:
    """What the nodes are."""
    gpu = common_accelerator(inventory, facts)
    names = (inventory.head_name, *(node.name for node in inventory.nodes if node.name != inventory.head_name))
    return Hardware(
        nodes=names,
        per_node=per_node,
        gpu=gpu.name if gpu else None,
        gpu_memory_bytes=gpu_memory_bytes,
        inside=inside(inventory, facts, per_node),
        between=between(inventory, facts),
    )


def named_inside(gpu: str, per_node: int) -> Link | None:
    """Between accelerators of this name in one node, as they are usually built: all over NVLink where they have it."""
    figures = accelerator(gpu)
    if per_node < 2 or figures is None:
        return None
    if not figures.nvlink_bytes_per_s or "PCIe" in gpu:
        return Link("PCIe", PCIE_BYTES_PER_S, LATENCY_S["PCIe"], measured=False)
    return Link("NVLink", USUAL_NVLINKS * figures.nvlink_bytes_per_s, LATENCY_S["NVLink"], measured=False)


USUAL_NVLINKS = 18
"""Of an H100, H200 or B200 in an HGX machine (NV18); an A100 has 12."""


def common_accelerator(inventory: Inventory, facts: ClusterFacts) -> Gpu | None:
    """A GPU that stands for all that are used: the first, where all are of one name."""
    gpus = [gpu for name, node in facts.nodes.items() for gpu in used_gpus(inventory, name, node)]
    return gpus[0] if gpus and len({gpu.name for gpu in gpus}) == 1 else None
