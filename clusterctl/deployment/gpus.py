"""How a node's container asks for its GPUs, and for which: what the engine says decides. Pure."""

from __future__ import annotations

from typing import Literal

from clusterctl.facts.cdi import NVIDIA_GPU
from clusterctl.facts.cluster import NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.nvidia import NvidiaFacts
from clusterctl.facts.records import EngineFacts, Gpu
from clusterctl.inventory.model import Inventory
from clusterctl.modes.place import GpuRequest, GpuWay

OLDEST_CDI = 25
"""Docker's first version that gives devices by CDI. Up to 28.2 it has to be switched on, from 28.3 it is on."""
TOOLKIT_BY_CDI = 29
"""Docker's first version that answers `--gpus` with CDI where there is no toolkit (moby/moby#50228)."""
ALL = "all"
"""The device of a specification that stands for all of them (`nvidia-ctk cdi generate`)."""

CdiLack = Literal["old", "off", "no specification"]


def gpu_request(inventory: Inventory, name: str, node: NodeFacts, count: int) -> GpuRequest | None:
    """How the container on that node asks for so many GPUs; None where it asks for none."""
    if inventory.accelerator.kind == "amd":
        return _amd_request(inventory, name, node, count)
    if inventory.accelerator.kind != "nvidia" or not count:
        return None
    way, why = access(inventory, node)
    asked = chosen_devices(inventory, name)[:count]
    gpus = usable_gpus(inventory, name, node)[:count]
    if way == "cdi":
        names = _cdi_names_of(node, asked) if asked else _cdi_names(node, count)
    else:
        names = tuple(map(str, asked))
    return GpuRequest(way, count, names, why, tuple(gpu.uuid for gpu in gpus))


def _amd_request(inventory: Inventory, name: str, node: NodeFacts, count: int) -> GpuRequest:
    """By CDI where it was asked for, else ROCm's device files. Of a node with more GPUs than are used: those that are
    chosen, else the first ones, and no others."""
    there = node.amd_render_nodes if isinstance(node.amd_render_nodes, tuple) else ()
    asked = chosen_devices(inventory, name)[:count] or (tuple(range(count)) if len(there) > count else ())
    if inventory.accelerator.request == "cdi":
        return GpuRequest("cdi", count, tuple(map(str, asked)) or (ALL,), "accelerator.request says so")
    files = tuple(there[each] for each in asked if isinstance(each, int) and each < len(there))
    return GpuRequest("files", count, files, "ROCm's own way for containers")


def chosen_devices(inventory: Inventory, name: str) -> tuple[int | str, ...]:
    """The GPUs that the inventory chooses on a node; none: it leaves the choice."""
    own = next((node.gpus for node in inventory.nodes if node.name == name), None)
    return inventory.accelerator.devices if own is None else own


def missing_devices(inventory: Inventory, name: str, node: NodeFacts) -> tuple[int | str, ...]:
    """Those of them that the node does not have, where its GPUs are known."""
    if inventory.accelerator.kind == "amd":
        if isinstance(node.amd_render_nodes, Unknown):
            return ()
        there = range(len(node.amd_render_nodes or ()))
        return tuple(each for each in chosen_devices(inventory, name) if each not in there)
    if not isinstance(node.gpus, tuple):
        return ()
    return tuple(asked for asked in chosen_devices(inventory, name) if not any(_is(gpu, asked) for gpu in node.gpus))


def access(inventory: Inventory, node: NodeFacts) -> tuple[GpuWay, str]:
    """Which way, and why."""
    asked = inventory.accelerator.request
    if asked != "auto":
        return asked, "accelerator.request says so"
    if is_podman(node):
        return "cdi", "Podman gives GPUs by CDI"
    cdi = isinstance(node.engine, EngineFacts) and not cdi_lack(node)
    possible: dict[GpuWay, bool] = {"toolkit": toolkit_works(node), "cdi": cdi}
    running = way_that_runs(node)
    if running is not None and possible.get(running):
        return running, "it is what runs"
    if has_toolkit(node):
        return "toolkit", "the engine has NVIDIA's container toolkit"
    if cdi:
        return "cdi", f"the engine has no NVIDIA runtime, and {_source(node)} has {NVIDIA_GPU}"
    return "toolkit", "nothing was found that gives GPUs to containers"


def way_that_runs(node: NodeFacts) -> GpuWay | None:
    """How the cluster's container on the node has asked; None where there is none, or it is not known."""
    for container in node.containers if isinstance(node.containers, tuple) else ():
        spec = container.spec if isinstance(container.spec, dict) else {}
        for request in (spec.get("host_config") or {}).get("device_requests") or ():
            return "cdi" if request.get("Driver") == "cdi" else "toolkit"
    return None


def has_toolkit(node: NodeFacts) -> bool:
    """Whether NVIDIA's container toolkit is there for the engine: Docker knows `--gpus` by the hook in its PATH, and
    the runtime comes from the same packages. A snap's engine sees only what is inside the snap."""
    engine, nvidia = node.engine, node.nvidia
    if not isinstance(engine, EngineFacts) or is_podman(node):
        return False
    hook = isinstance(nvidia, NvidiaFacts) and nvidia.hook is True and not in_snap(engine)
    return hook or any("nvidia" in runtime for runtime in engine.runtimes)


def toolkit_works(node: NodeFacts) -> bool:
    """Whether the engine takes a request of the toolkit's kind (`--gpus`)."""
    engine = node.engine
    by_cdi = isinstance(engine, EngineFacts) and (engine.major or 0) >= TOOLKIT_BY_CDI and cdi_lack(node) is None
    return has_toolkit(node) or by_cdi


def is_podman(node: NodeFacts) -> bool:
    """Whether the node's engine is Podman, which knows GPUs by CDI only."""
    return isinstance(node.engine, EngineFacts) and node.engine.kind == "podman"


def in_snap(engine: EngineFacts) -> bool:
    """Whether it is Docker's snap."""
    return engine.data_root.startswith("/var/snap/")


def cdi_lack(node: NodeFacts, kind: str = NVIDIA_GPU) -> CdiLack | None:
    """What keeps the engine from giving GPUs of a kind by CDI; None where nothing is known to."""
    engine = node.engine
    if not isinstance(engine, EngineFacts):
        return None
    if not engine.cdi_directories:
        return "old" if engine.major is not None and engine.major < OLDEST_CDI else "off"
    return None if offered(node, kind) is None or offered(node, kind) else "no specification"


def offered(node: NodeFacts, kind: str = NVIDIA_GPU) -> frozenset[str] | None:
    """Names of the GPUs of a kind in the node's CDI specifications, by the engine's word where it gives it; None where
    that is not known."""
    engine = node.engine
    said = engine.cdi_devices if isinstance(engine, EngineFacts) else ()
    names = frozenset(name.partition("=")[2] for name in said if name.startswith(f"{kind}="))
    if names:
        return names
    if isinstance(node.cdi, Unknown):
        return None
    names = frozenset(name for spec in node.cdi if spec.kind == kind for name in spec.devices)
    maker = kind.partition(".")[0]
    unread = any(spec.problem is not None and maker in spec.path for spec in node.cdi)
    return None if unread and not names else names


def usable_gpus(inventory: Inventory, name: str, node: NodeFacts) -> tuple[Gpu, ...]:
    """The GPUs that the node's container can be given: those that are chosen, else all, by index. With CDI those of its
    specifications: the driver may list more."""
    if inventory.accelerator.kind != "nvidia" or not isinstance(node.gpus, tuple):
        return ()
    asked = chosen_devices(inventory, name)
    gpus = tuple(gpu for each in asked for gpu in node.gpus if _is(gpu, each)) if asked else node.gpus
    one_by_one = (offered(node) or frozenset()) - {ALL}
    return _named(node, gpus) if one_by_one and access(inventory, node)[0] == "cdi" else gpus


def used_gpus(inventory: Inventory, name: str, node: NodeFacts) -> tuple[Gpu, ...]:
    """The GPUs that the container will be given: of the usable ones the first per_node."""
    wanted = inventory.accelerator.per_node
    usable = usable_gpus(inventory, name, node)
    return usable if wanted == "auto" else usable[:wanted]


def _named(node: NodeFacts, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """Those that a specification names."""
    names = offered(node) or frozenset()
    return tuple(gpu for gpu in gpus if names.intersection(_spellings(gpu)))


def _cdi_names(node: NodeFacts, count: int) -> tuple[str, ...]:
    names = offered(node) or frozenset()
    gpus = node.gpus if isinstance(node.gpus, tuple) else ()
    named = _named(node, gpus)
    # `all` is all that the specification has: of those that it names one by one, it must be as many as are asked for.
    if (not names or ALL in names) and len(named or gpus) in (0, count):
        return (ALL,)
    chosen = (named or gpus)[:count]
    return tuple(_name(gpu, names) for gpu in chosen) or tuple(map(str, range(count)))


def _cdi_names_of(node: NodeFacts, asked: tuple[int | str, ...]) -> tuple[str, ...]:
    """As they are chosen where the specification has that name, else as it has them: an index that has moved is another
    GPU either way, and no reason to replace a container."""
    names, gpus = offered(node) or frozenset(), node.gpus if isinstance(node.gpus, tuple) else ()
    return tuple(
        str(each)
        if str(each) in names or not names
        else next((_name(gpu, names) for gpu in gpus if _is(gpu, each)), str(each))
        for each in asked
    )


def _is(gpu: Gpu, asked: int | str) -> bool:
    return asked in (gpu.index, gpu.uuid)


def _name(gpu: Gpu, names: frozenset[str]) -> str:
    return next((spelled for spelled in _spellings(gpu) if spelled in names), str(gpu.index))


def _spellings(gpu: Gpu) -> tuple[str, ...]:
    """The names that `nvidia-ctk cdi generate --device-name-strategy` (index, uuid, type-index) may give a GPU."""
    return str(gpu.index), gpu.uuid, f"gpu{gpu.index}"


def _source(node: NodeFacts) -> str:
    """Where the devices come from."""
    specs = node.cdi if isinstance(node.cdi, tuple) else ()
    return ", ".join(spec.path for spec in specs if spec.kind == NVIDIA_GPU) or "its list of CDI devices"
