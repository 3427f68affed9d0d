"""The layout of an inventory on the nodes' facts: the declared one, and every other that the nodes allow. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from clusterctl.deployment.gpus import usable_gpus, used_gpus
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.model_files import ModelFiles
from clusterctl.facts.nvidia import NvidiaFacts, Topology
from clusterctl.inventory.layout import Size, engine_room, filled_in
from clusterctl.inventory.model import Inventory
from clusterctl.layout.architecture import Architecture, architecture
from clusterctl.layout.candidate import Candidate, Load, Memory, judge
from clusterctl.layout.estimate import Workload
from clusterctl.layout.links import Hardware, hardware
from clusterctl.layout.load import (
    configured,
    gpu_memory_bytes,
    has_unified_memory,
    load_of,
    memory_share,
    uncounted,
    value_bytes,
)
from clusterctl.layout.memory import UTILIZATION, memory_notes
from clusterctl.layout.ranking import Ranking, ranking
from clusterctl.layout.tensors import tensors_of


@dataclass(frozen=True)
class Report:
    """The answer of `clusterctl layout`."""

    model: str
    arch: Architecture
    nodes: tuple[str, ...]
    per_node: int
    engines: int
    """Each of them lies as `chosen` does."""
    gpu_memory_bytes: int | None
    unified_memory: bool
    """Whether that is the machine's memory, which the GPU has no other than."""
    request_tokens: int | None
    chosen: Candidate
    others: tuple[Candidate, ...]
    """Those with as many engines."""
    ranking: Ranking
    """Every way to serve, also with other numbers of engines."""
    notes: tuple[str, ...]
    unknown: tuple[str, ...]
    """Why something could not be estimated."""

    def stage_nodes(self, candidate: Candidate, stage: int) -> tuple[str, ...]:
        """The node of a stage; with three or more nodes vLLM orders all but the first itself (vllm-ray-facts, 5)."""
        if self.engines > 1:
            return self.nodes[:1]  # of the first engine: each lies on one node
        if candidate.pipeline_parallel < len(self.nodes):  # tensor parallel spans nodes
            width = len(self.nodes) // candidate.pipeline_parallel
            return self.nodes[stage * width : (stage + 1) * width]
        per_node = max(1, candidate.pipeline_parallel // len(self.nodes))
        place = stage // per_node
        return (self.nodes[place],) if place < len(self.nodes) else ()

    @property
    def recommended(self) -> Candidate | None:
        """The first layout that works: the one declared, else the one with the largest tensor-parallel size."""
        return next((candidate for candidate in (self.chosen, *self.others) if candidate.possible), None)


def report(inventory: Inventory, facts: ClusterFacts, work: Workload | None = None) -> Report | Unknown:
    """The layouts, judged, and ranked for a workload.

    Unknown where no node has a readable config.json, or accelerators are not known.
    """
    per_node = accelerators(inventory, facts)
    load = load_of(inventory, facts)
    if isinstance(load, Unknown):
        return load
    if per_node < 1:
        return Unknown("how many accelerators the nodes have is not known (set accelerator.per_node)")
    machines = hardware(inventory, facts, per_node, gpu_memory_bytes(inventory, facts))
    machines = replace(machines, unified_memory=has_unified_memory(inventory, facts))
    serve = inventory.serve
    sizes = (serve.tensor_parallel, serve.pipeline_parallel, serve.data_parallel)
    found = _report(inventory.served_name, machines, load, sizes, work or Workload())
    if isinstance(found, Unknown):
        return found
    notes = (
        *memory_notes(machines, memory_share(serve.options)),
        *_notes(inventory, facts, load, found.chosen.tensor_parallel, per_node),
    )
    return replace(found, notes=notes)


def planned(
    name: str, files: ModelFiles, machines: Hardware, request_tokens: int | None, work: Workload
) -> Report | Unknown:
    """The layouts of a model on machines that nobody has asked: one engine over all of them, and every other way."""
    config = configured(files)
    if isinstance(config, Unknown):
        return Unknown(f"{name}: {config.reason}")
    arch = architecture(config)
    total = machines.gpu_memory_bytes
    memory = Memory(int(total * UTILIZATION)) if total is not None else None
    load = Load(arch, tensors_of(files), memory, request_tokens or arch.context, value_bytes({}, arch))
    load = replace(load, unknown=tuple(uncounted({}, arch)))
    found = _report(name, machines, load, ("auto", "auto", 1), work)
    return found if isinstance(found, Unknown) else replace(found, notes=tuple(memory_notes(machines, None)))


def _report(
    model: str, machines: Hardware, load: Load, sizes: tuple[Size, Size, int], work: Workload
) -> Report | Unknown:
    """`sizes`: tensor and pipeline parallel as they are asked for, and engines."""
    engines, nodes = sizes[2], len(machines.nodes)
    try:
        own_nodes, slots = engine_room(nodes, machines.per_node, engines)
    except ValueError as error:
        return Unknown(str(error))
    tensor, pipeline = filled_in(own_nodes, slots, sizes[0], sizes[1])
    fitting = [size for size in range(slots, 0, -1) if slots % size == 0]
    pairs = [(size, own_nodes * slots // size) for size in fitting]
    return Report(
        model=model,
        arch=load.arch,
        nodes=machines.nodes,
        per_node=machines.per_node,
        engines=engines,
        gpu_memory_bytes=machines.gpu_memory_bytes,
        unified_memory=machines.unified_memory,
        request_tokens=load.request_tokens,
        chosen=judge(load, tensor, pipeline),
        others=tuple(judge(load, *pair) for pair in pairs if pair != (tensor, pipeline)),
        ranking=ranking(load, machines, work),
        notes=(),
        unknown=_unknown(load),
    )


def accelerators(inventory: Inventory, facts: ClusterFacts) -> int:
    """Accelerators of each node, as declared or found; 0: not known."""
    declared = inventory.accelerator.per_node
    if isinstance(declared, int):
        return declared
    found = {name: node for name, node in facts.nodes.items() if isinstance(node.gpus, tuple)}
    return min((len(usable_gpus(inventory, name, node)) for name, node in found.items()), default=0)


def _unknown(load: Load) -> tuple[str, ...]:
    reasons = list(load.unknown)
    if load.tensors is None:
        reasons.append("weights: a file that the model is made of is missing, or its header is not known")
    if load.memory is None:
        reasons.append("memory: no GPU memory was read (on CPUs set VLLM_CPU_KVCACHE_SPACE in container.env)")
    if load.request_tokens is None:
        reasons.append("serve.options.max-model-len is fitted to the memory by vLLM")
    return tuple(reasons)


def _notes(inventory: Inventory, facts: ClusterFacts, load: Load, tensor: int, per_node: int) -> Iterator[str]:
    arch = load.arch
    if inventory.accelerator.kind == "nvidia" and tensor > 1:
        slow = _without_nvlink(inventory, facts, per_node)
        if slow:
            yield (
                f"GPUs of {', '.join(slow)} reach each other over PCIe, without NVLink: a smaller TP and a larger PP "
                "move far less between them; measure both"
            )
    if arch.experts and not load.expert_parallel:
        yield (
            f"{arch.experts} experts are divided by TP like all else; serve.expert_parallel: true gives "
            "each rank whole experts instead (no rule about their size then)"
        )
    engines = inventory.serve.data_parallel
    if engines > 1:
        yield f"data_parallel {engines}: tokens and concurrency are those of one of {engines} engines"
    elif arch.latent is not None and tensor > 1:
        yield (
            "with latent attention every TP rank keeps the whole KV cache: data parallelism for attention would hold "
            f"up to {tensor} times as many tokens"
        )
    if len(inventory.nodes) > 2 and engines == 1 and inventory.serve.executor != "mp":
        yield "vLLM orders the nodes after the first itself: which node holds which stage is shown after the start"


def _without_nvlink(inventory: Inventory, facts: ClusterFacts, per_node: int) -> list[str]:
    """Nodes whose GPUs, of those that are used, are known to have no NVLink between some of them."""
    slow = []
    for name, node in facts.nodes.items():
        matrix = node.nvidia.topology if isinstance(node.nvidia, NvidiaFacts) else None
        indices = [gpu.index for gpu in used_gpus(inventory, name, node)[:per_node]]
        if isinstance(matrix, Topology) and matrix.without_nvlink(indices):
            slow.append(name)
    return slow
