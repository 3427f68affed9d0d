"""The layout of an inventory on the nodes' facts: the declared one, and every other that the nodes allow. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from clusterctl.deployment.gpus import usable_gpus
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.model_files import ModelFiles
from clusterctl.facts.nvidia import NvidiaFacts, Topology
from clusterctl.facts.safetensors import Header, Tensor
from clusterctl.inventory.layout import Size, engine_room, filled_in
from clusterctl.inventory.model import Inventory
from clusterctl.layout.architecture import Architecture, architecture
from clusterctl.layout.candidate import GIB, Candidate, Load, Memory, judge
from clusterctl.layout.estimate import Workload
from clusterctl.layout.kv_cache import BLOCK_TOKENS
from clusterctl.layout.links import Hardware, hardware
from clusterctl.layout.ranking import Ranking, ranking

UTILIZATION = 0.92
"""vLLM's default of gpu-memory-utilization (0.32, config/cache.py)."""

UNCOUNTED = {
    "cpu-offload-gb": "weights are kept outside of the GPU",
    "speculative-config": "a draft model takes memory too",
    "hf-overrides": "it changes the model's configuration",
    "decode-context-parallel-size": "it divides the KV cache further",
    "prefill-context-parallel-size": "it divides the KV cache further",
    "num-gpu-blocks-override": "it sets the size of the KV cache itself",
    "kv-transfer-config": "KV cache is kept elsewhere too",
}
"""Options of `vllm serve` with which the estimate would be wrong, each with the reason."""


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
    serve = inventory.serve
    sizes = (serve.tensor_parallel, serve.pipeline_parallel, serve.data_parallel)
    found = _report(inventory.served_name, machines, load, sizes, work or Workload())
    if isinstance(found, Unknown):
        return found
    return replace(found, notes=tuple(_notes(inventory, facts, load, found.chosen.tensor_parallel, per_node)))


def planned(
    name: str, files: ModelFiles, machines: Hardware, request_tokens: int | None, work: Workload
) -> Report | Unknown:
    """The layouts of a model on machines that nobody has asked: one engine over all of them, and every other way."""
    if not isinstance(files.config, Mapping):
        return Unknown(f"{name} has no config.json that can be read")
    arch = architecture(files.config)
    total = machines.gpu_memory_bytes
    memory = Memory(int(total * UTILIZATION)) if total is not None else None
    load = Load(arch, _tensors(files), memory, request_tokens or arch.context, _value_bytes({}, arch))
    load = replace(load, unknown=tuple(_uncounted({}, arch)))
    return _report(name, machines, load, ("auto", "auto", 1), work)


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


def load_of(inventory: Inventory, facts: ClusterFacts) -> Load | Unknown:
    """What is to be held, from the first node that has the model's configuration."""
    found = [node.model for node in facts.nodes.values() if isinstance(node.model, ModelFiles)]
    files = next((files for files in found if isinstance(files.config, Mapping)), None)
    if files is None or not isinstance(files.config, Mapping):
        return Unknown(f"no node has a readable config.json in {inventory.model.path}")
    arch = architecture(files.config)
    options = inventory.serve.options
    tensors = _tensors(next((other for other in found if _tensors(other) is not None), files))
    request = _request_tokens(options.get("max-model-len"), arch)
    return Load(
        arch=arch,
        tensors=tensors,
        memory=_memory(inventory, facts),
        request_tokens=request,
        value_bytes=_value_bytes(options, arch),
        expert_parallel=inventory.serve.expert_parallel,
        engines=inventory.serve.data_parallel,
        partition=inventory.container.env.get("VLLM_PP_LAYER_PARTITION"),
        unknown=tuple(_uncounted(options, arch)),
    )


def _tensors(files: ModelFiles) -> Mapping[str, Tensor] | None:
    """All tensors of the model; None unless every shard's header is known."""
    headers = [files.headers.get(name) for name in files.shards]
    wanted = files.index_shards if isinstance(files.index_shards, tuple) else ()
    if not headers or not all(isinstance(said, Header) for said in headers) or set(wanted) - set(files.shards):
        return None
    # A directory may hold the model twice (consolidated.safetensors beside shards): the index says which files count.
    names = [name for name in files.shards if not wanted or name in wanted]
    said = [files.headers[name] for name in names]
    return {name: tensor for header in said if isinstance(header, Header) for name, tensor in header.tensors.items()}


def _request_tokens(said: object, arch: Architecture) -> int | None:
    """Longest request; None when vLLM fits it to the memory ("auto", -1). Accepts vLLM's 32k and 32K."""
    if isinstance(said, int) and not isinstance(said, bool):
        return said if said > 0 else None
    if isinstance(said, str):
        number, unit = said[:-1], said[-1:]
        factor = {"k": 1000, "K": 1024, "m": 1_000_000, "M": 1024**2}.get(unit)
        if factor and number.isdigit():
            return int(number) * factor
        return int(said) if said.isdigit() else None
    return arch.context


def _value_bytes(options: Mapping[str, Any], arch: Architecture) -> int:
    """Bytes of one value in the KV cache."""
    said = str(options.get("kv-cache-dtype", "auto"))
    if said.startswith(("fp8", "int8")) or (said == "auto" and arch.quantization and arch.quantization.fp8_kv_cache):
        return 1
    dtype = str(options.get("dtype", "auto"))
    return 4 if "float32" in (dtype, said) or dtype == "float" else 2


def _uncounted(options: Mapping[str, Any], arch: Architecture) -> Iterator[str]:
    for name, why in UNCOUNTED.items():
        if options.get(name):
            yield f"serve.options.{name}: {why}"
    if arch.irregular:
        yield f"{arch.name}: {arch.irregular}"


def gpu_memory_bytes(inventory: Inventory, facts: ClusterFacts) -> int | None:
    """Memory of the smallest GPU; None on CPUs, with unified memory, and where it could not be read."""
    if inventory.accelerator.kind != "nvidia":
        return None
    gpus = [gpu for name, node in facts.nodes.items() for gpu in usable_gpus(inventory, name, node)]
    sizes = [gpu.memory_total_mib for gpu in gpus]
    known = [size for size in sizes if size is not None]
    return min(known) * 1024**2 if known and len(known) == len(sizes) else None


def _memory(inventory: Inventory, facts: ClusterFacts) -> Memory | None:
    options = inventory.serve.options
    given = options.get("kv-cache-memory-bytes")
    if inventory.accelerator.kind == "cpu":
        space = inventory.container.env.get("VLLM_CPU_KVCACHE_SPACE", "")
        block = _whole(options.get("block-size")) or BLOCK_TOKENS["cpu"]
        return Memory(None, int(space) * GIB, block) if space.isdigit() and int(space) else None
    total = gpu_memory_bytes(inventory, facts)
    if total is None:
        return None
    share = options.get("gpu-memory-utilization", UTILIZATION)
    try:
        requested = int(total * float(str(share)))
    except ValueError:
        return None
    return Memory(requested, _whole(given), _whole(options.get("block-size")) or BLOCK_TOKENS["gpu"])


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _unknown(load: Load) -> tuple[str, ...]:
    reasons = list(load.unknown)
    if load.tensors is None:
        reasons.append("weights: the headers of all safetensors files are not known")
    if load.memory is None:
        reasons.append("memory: no GPU memory was read (on CPUs set VLLM_CPU_KVCACHE_SPACE in container.env)")
    if load.request_tokens is None:
        reasons.append("serve.options.max-model-len is fitted to the memory by vLLM")
    return tuple(reasons)


def _notes(inventory: Inventory, facts: ClusterFacts, load: Load, tensor: int, per_node: int) -> Iterator[str]:
    arch = load.arch
    if inventory.accelerator.kind == "nvidia" and tensor > 1:
        slow = _without_nvlink(facts, per_node)
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


def _without_nvlink(facts: ClusterFacts, per_node: int) -> list[str]:
    """Nodes whose GPUs are known to have no NVLink between them."""
    matrices = {
        name: node.nvidia.topology for name, node in facts.nodes.items() if isinstance(node.nvidia, NvidiaFacts)
    }
    return [name for name, said in matrices.items() if isinstance(said, Topology) and said.without_nvlink(per_node)]
