"""What is to be held, and where: from an inventory's options, the model's files and the nodes' memory. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from clusterctl.deployment.gpus import used_gpus
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.model_files import ModelFiles
from clusterctl.facts.model_formats import AUTO, Asked, asked, config_of
from clusterctl.facts.records import Gpu
from clusterctl.inventory.model import Inventory
from clusterctl.layout.architecture import Architecture, architecture
from clusterctl.layout.candidate import GIB, Load, Memory
from clusterctl.layout.kv_cache import BLOCK_TOKENS
from clusterctl.layout.memory import UTILIZATION
from clusterctl.layout.tensors import tensors_of

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


def configured(files: ModelFiles, said: Asked = AUTO) -> Mapping[str, Any] | Unknown:
    """The model's configuration in the words of config.json, from whichever format vLLM takes."""
    found = config_of(files, said)
    if isinstance(found, Mapping):
        return found
    if isinstance(found, Unknown):
        return found
    if files.snapshots:
        return Unknown(f"it is a cache's folder of a model: give one of its revisions, snapshots/{files.snapshots[0]}")
    return Unknown("it has no config.json, no params.json with consolidated*.safetensors, and no GGUF file")


def divided_towers(arch: Architecture, options: Mapping[str, Any]) -> Architecture:
    """The architecture without the encoders that these options leave whole, or leave out."""
    if options.get("language-model-only"):
        return replace(arch, towers=())
    if options.get("mm-encoder-tp-mode") == "data":
        return replace(arch, towers=tuple(tower for tower in arch.towers if not tower.data_mode))
    return arch


def load_of(inventory: Inventory, facts: ClusterFacts) -> Load | Unknown:
    """What is to be held, from the first node that has the model's configuration."""
    options = inventory.serve.options
    said = asked(options)
    found = [node.model for node in facts.nodes.values() if isinstance(node.model, ModelFiles)]
    configs = [configured(files, said) for files in found]
    config = next((each for each in configs if isinstance(each, Mapping)), None)
    if config is None:
        why = next((f": {each.reason}" for each in configs if isinstance(each, Unknown)), "")
        return Unknown(f"no node has a configuration of the model that can be read in {inventory.model.path}{why}")
    arch = divided_towers(architecture(config), options)
    tensors = next((each for files in found if (each := tensors_of(files, said)) is not None), None)
    request = _request_tokens(options.get("max-model-len"), arch)
    return Load(
        arch=arch,
        tensors=tensors,
        memory=_memory(inventory, facts),
        request_tokens=request,
        value_bytes=value_bytes(options, arch),
        expert_parallel=inventory.serve.expert_parallel,
        engines=inventory.serve.data_parallel,
        partition=inventory.container.env.get("VLLM_PP_LAYER_PARTITION"),
        unknown=tuple(uncounted(options, arch)),
    )


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


def value_bytes(options: Mapping[str, Any], arch: Architecture) -> int:
    """Bytes of one value in the KV cache."""
    said = str(options.get("kv-cache-dtype", "auto"))
    if said.startswith(("fp8", "int8")) or (said == "auto" and arch.quantization and arch.quantization.fp8_kv_cache):
        return 1
    dtype = str(options.get("dtype", "auto"))
    return 4 if "float32" in (dtype, said) or dtype == "float" else 2


def uncounted(options: Mapping[str, Any], arch: Architecture) -> Iterator[str]:
    """Why weights or KV cache cannot be computed."""
    for name, why in UNCOUNTED.items():
        if options.get(name):
            yield f"serve.options.{name}: {why}"
    if arch.irregular:
        yield f"{arch.name}: {arch.irregular}"


def gpu_memory_bytes(inventory: Inventory, facts: ClusterFacts) -> int | None:
    """Memory of the smallest GPU that is used, with unified memory the machine's; None on CPUs, and where it could not
    be read."""
    sizes = [_memory_of(node, gpu) for node, gpu in _used(inventory, facts)]
    known = [size for size in sizes if size is not None]
    return min(known) if known and len(known) == len(sizes) else None


def _memory_of(node: NodeFacts, gpu: Gpu) -> int | None:
    """CUDA's total memory of such a GPU is the machine's MemTotal (measured on DGX Spark: 121.69 GiB both)."""
    if gpu.memory_total_mib is not None:
        return gpu.memory_total_mib * 1024**2
    total = node.system.memory_total_bytes
    return total if gpu.unified and isinstance(total, int) else None


def has_unified_memory(inventory: Inventory, facts: ClusterFacts) -> bool:
    """Whether the GPUs that are used have no memory but the machine's."""
    return any(gpu.unified for _, gpu in _used(inventory, facts))


def _used(inventory: Inventory, facts: ClusterFacts) -> Iterator[tuple[NodeFacts, Gpu]]:
    for name, node in facts.nodes.items():
        for gpu in used_gpus(inventory, name, node):
            yield node, gpu


def memory_share(options: Mapping[str, Any]) -> float:
    """gpu-memory-utilization; vLLM's own where it is not given, or is no number."""
    try:
        return float(str(options.get("gpu-memory-utilization", UTILIZATION)))
    except ValueError:
        return UTILIZATION


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
    return Memory(
        int(total * memory_share(options)), _whole(given), _whole(options.get("block-size")) or BLOCK_TOKENS["gpu"]
    )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
