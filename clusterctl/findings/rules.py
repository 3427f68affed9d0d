"""The rules: from what was asked for and what is there to findings. Pure; one small function a rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from clusterctl.facts.model import ClusterFacts, ContainerFacts, ModelFiles, NodeFacts, Unknown
from clusterctl.findings.finding import Finding, Severity
from clusterctl.inventory.layout import resolve_layout
from clusterctl.inventory.model import Inventory
from clusterctl.planning.paths import container_name

ERROR = Severity.ERROR


def check(inventory: Inventory, facts: ClusterFacts) -> tuple[Finding, ...]:
    """Every finding, in the order of the rules below and of the inventory's nodes."""
    rules = (
        unreachable,
        engine,
        image,
        strangers_name,
        addresses,
        model,
        shards,
        config_differs,
        accelerators,
        ports,
    )
    return tuple(finding for rule in rules for finding in rule(inventory, facts))


def unreachable(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """A node that SSH does not reach."""
    for name, node in facts.unreachable.items():
        yield Finding(
            "node-unreachable",
            ERROR,
            (name,),
            node.reason,
            "every declared node holds a part of the model: without one the cluster cannot start",
            node.fix or f"ssh -v to {name} from here",
        )


def engine(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """No engine, or one that this login may not use (F4, F16)."""
    for name, node in facts.nodes.items():
        if node.engine is None:
            yield Finding(
                "engine-missing",
                ERROR,
                (name,),
                "the command `docker` is not in the PATH of an SSH login",
                "the container on this node is started through it",
                "install Docker Engine on the node (Debian: apt-get install docker.io)",
            )
        elif isinstance(node.engine, Unknown):
            yield Finding(
                "engine-unusable",
                ERROR,
                (name,),
                node.engine.reason,
                "the container on this node is started through the engine",
                "on the node: systemctl status docker; for permission: usermod -aG docker USER and log in again, "
                "or set container.sudo: true",
            )


def image(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The image absent on a node, or another one behind the same name (F19)."""
    reference = inventory.container.image
    by_content: dict[tuple[str, ...], list[str]] = defaultdict(list)
    ids: dict[str, str] = {}
    for name, node in facts.nodes.items():
        if node.image is None:
            yield Finding(
                "image-absent",
                ERROR,
                (name,),
                f"no image {reference} on the node",
                "the container is started from it, and up pulls nothing by itself",
                f"on the node: docker pull {reference}",
            )
        elif isinstance(node.image, Unknown):
            if not isinstance(node.engine, Unknown | None):
                yield _unknown("image-unknown", name, node.image)
        else:
            # Two builds of one Dockerfile have different IDs and equal layers (lab-facts): layers decide.
            by_content[node.image.layers or (node.image.id,)].append(name)
            ids[name] = node.image.id
    if len(by_content) > 1:
        odd = _minority(by_content)
        seen = "; ".join(f"{', '.join(names)}: {ids[names[0]][:19]}" for names in by_content.values())
        yield Finding(
            "image-differs",
            ERROR,
            odd,
            f"{reference} is not the same image everywhere ({seen})",
            "different Ray, Python or vLLM versions on the nodes of one gang fail late and obscurely (F19, F41)",
            f"bring the same image to every node (docker pull {reference}, best by digest), or copy it: "
            f"docker save {reference} | ssh NODE docker load",
        )


def strangers_name(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Two containers of this cluster on one node: only one can be ours."""
    expected = container_name(inventory.cluster)
    for name, node in facts.nodes.items():
        if isinstance(node.containers, Unknown):
            continue
        extra = [container.name for container in node.containers if container.name != expected]
        if extra:
            yield Finding(
                "container-extra",
                ERROR,
                (name,),
                f"containers with this cluster's label but another name: {', '.join(extra)}",
                "they hold the cluster's ports or accelerators",
                f"clusterctl down (removes everything with the label clusterctl.cluster={inventory.cluster})",
            )


def addresses(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Each node has exactly one address in the private network, and no two the same (F1, F28)."""
    cidr = inventory.network.cidr
    owners: dict[object, list[str]] = defaultdict(list)
    for declared in inventory.nodes:
        node = facts.nodes.get(declared.name)
        if node is None:
            continue
        if isinstance(node.addresses, Unknown):
            yield _unknown("address-unknown", declared.name, node.addresses)
            continue
        inside = [item for item in node.addresses if item.address in cidr]
        if declared.address is not None:
            inside = [item for item in inside if item.address == declared.address]
        shown = ", ".join(f"{item.address} on {item.interface}" for item in node.addresses) or "none"
        wanted = declared.address or f"an address in {cidr}"
        if not inside:
            yield Finding(
                "address-missing",
                ERROR,
                (declared.name,),
                f"the node does not have {wanted} (it has: {shown})",
                "Ray, NCCL and Gloo are bound to the node's address in network.cidr",
                "correct network.cidr or the node's `address` in the inventory, or configure the interface",
            )
        elif len({item.address for item in inside}) > 1:
            yield Finding(
                "address-ambiguous",
                ERROR,
                (declared.name,),
                f"several addresses in {cidr}: {', '.join(f'{i.address} on {i.interface}' for i in inside)}",
                "traffic would leave by whichever route the kernel picks (F28)",
                "set `address` for this node in the inventory",
            )
        else:
            owners[inside[0].address].append(declared.name)
    for address, names in owners.items():
        if len(names) > 1:
            yield Finding(
                "address-duplicate",
                ERROR,
                tuple(names),
                f"{address} is on more than one node",
                "every rank needs an address of its own (F1); perhaps two entries are the same machine",
                "give each node its own address; check that the entries are different machines",
            )


def model(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The model's directory is at the same path on every node and holds a configuration (F36)."""
    path = inventory.model.path
    for name, node in facts.nodes.items():
        if node.model is None:
            yield Finding(
                "model-missing",
                ERROR,
                (name,),
                f"{path} does not exist on the node",
                "every node loads its part of the model from that path (F36)",
                f"copy it from a node that has it: rsync -a GOOD_NODE:{path}/ {path}/",
            )
        elif isinstance(node.model, Unknown):
            yield _unknown("model-unknown", name, node.model)
        elif not isinstance(node.model.config, Mapping):
            what = "has no config.json" if node.model.config is None else f"config.json: {node.model.config.reason}"
            yield Finding(
                "model-config",
                ERROR,
                (name,),
                f"{path} {what}",
                "vLLM reads the architecture from it",
                f"copy the model again: rsync -a GOOD_NODE:{path}/ {path}/",
            )


def shards(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Every shard that the index, or another node, names is there, with the same size (F37)."""
    path = inventory.model.path
    models = {name: node.model for name, node in facts.nodes.items() if isinstance(node.model, ModelFiles)}
    elsewhere: dict[str, set[int]] = defaultdict(set)
    for files in models.values():
        for file, size in files.sizes.items():
            if file.endswith(".safetensors"):
                elsewhere[file].add(size)
    for name, files in models.items():
        indexed = files.index_shards if isinstance(files.index_shards, tuple) else ()
        absent = sorted(file for file in {*indexed, *elsewhere} if file not in files.sizes)
        if absent:
            yield Finding(
                "model-shard-missing",
                ERROR,
                (name,),
                f"{path} lacks {', '.join(absent[:4])}{' …' if len(absent) > 4 else ''} "
                f"({len(absent)} of {len({*indexed, *elsewhere})} weight files)",
                "loading fails on this node after the others have loaded (F37)",
                f"copy the missing files: rsync -a GOOD_NODE:{path}/ {path}/",
            )
    for file, sizes in sorted(elsewhere.items()):
        if len(sizes) > 1:
            shown = ", ".join(f"{name} {files.sizes[file]} B" for name, files in models.items() if file in files.sizes)
            yield Finding(
                "model-shard-differs",
                ERROR,
                tuple(name for name, files in models.items() if file in files.sizes),
                f"{path}/{file} has different sizes: {shown}",
                "a truncated or different file fails to load, or loads another model's weights (F37, F38)",
                f"compare with the source and copy it again: rsync -a GOOD_NODE:{path}/{file} {path}/",
            )


def config_differs(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """config.json says the same on every node (F38)."""
    groups: dict[Hashable, list[str]] = defaultdict(list)
    values: dict[Hashable, Mapping[str, Any]] = {}
    for name, node in facts.nodes.items():
        if isinstance(node.model, ModelFiles) and isinstance(node.model.config, Mapping):
            key = _freeze(node.model.config)
            groups[key].append(name)
            values[key] = node.model.config
    if len(groups) > 1:
        first, *others = values.values()
        keys = sorted({k for other in others for k in {*first, *other} if not _same(first, other, k)})
        yield Finding(
            "model-config-differs",
            ERROR,
            _minority(groups),
            f"{inventory.model.path}/config.json differs between nodes in: {', '.join(keys)}",
            "the nodes would build different models (F38)",
            "copy the whole model directory from one node to the others",
        )


def accelerators(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Enough accelerators on every node, the same number everywhere, and a layout that fits them (F3)."""
    wanted = inventory.accelerator.per_node
    counts: dict[str, int] = {}
    if inventory.accelerator.kind != "nvidia" and wanted == "auto":
        yield Finding(
            "gpus-unknown",
            ERROR,
            (),
            f"accelerator.per_node is auto, and accelerators of kind {inventory.accelerator.kind} are not counted",
            "how the model is spread over the nodes depends on their number",
            "set accelerator.per_node to a number (rocm-smi -i on the node)",
        )
        return
    for name, node in facts.nodes.items():
        if inventory.accelerator.kind != "nvidia":
            # Declared slots; ROCm's tool is read by `check` (not yet by this pass).
            counts[name] = int(wanted)
        elif isinstance(node.gpus, Unknown):
            yield _unknown("gpus-unknown", name, node.gpus)
        elif node.gpus is None:
            yield Finding(
                "gpus-missing",
                ERROR,
                (name,),
                "nvidia-smi is not installed on the node",
                "accelerator.kind is nvidia",
                "install the NVIDIA driver, or correct accelerator.kind",
            )
        else:
            counts[name] = len(node.gpus)
            if len(node.gpus) < (wanted if isinstance(wanted, int) else 1):
                yield Finding(
                    "gpus-missing",
                    ERROR,
                    (name,),
                    f"{len(node.gpus)} GPUs, accelerator.per_node says {wanted}",
                    "tensor parallelism would spill over nodes or wait for ever (F3, F45)",
                    "nvidia-smi -L on the node; correct accelerator.per_node or repair the GPU",
                )
    if wanted == "auto" and len(set(counts.values())) > 1:
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        yield Finding(
            "gpus-differ",
            ERROR,
            tuple(counts),
            f"different numbers of GPUs: {shown}",
            "each node holds one pipeline stage of the same tensor-parallel size (F3)",
            "set accelerator.per_node to what all nodes have, or leave the odd node out",
        )
        return
    if counts and min(counts.values()) > 0 and not facts.unreachable:
        yield from _layout(inventory, min(counts.values()) if wanted == "auto" else int(wanted))


def _layout(inventory: Inventory, per_node: int) -> Iterator[Finding]:
    serve = inventory.serve
    try:
        resolve_layout(len(inventory.nodes), per_node, serve.tensor_parallel, serve.pipeline_parallel)
    except ValueError as error:
        yield Finding(
            "layout-impossible",
            ERROR,
            (),
            str(error),
            "vLLM would wait half an hour for accelerators that are not there (F45)",
            "set serve.tensor_parallel and serve.pipeline_parallel to `auto`, or to sizes that fit",
        )


def ports(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The ports that will be listened on are free; a stranger on one is named (F42, F57)."""
    for name, node in facts.nodes.items():
        if isinstance(node.listeners, Unknown):
            yield _unknown("ports-unknown", name, node.listeners)
            continue
        if _runs_ours(node, inventory):
            continue  # its own listeners hold them
        wanted = ports_of(inventory, name)
        for port in sorted({listener.port for listener in node.listeners} & set(wanted)):
            holder = next(listener for listener in node.listeners if listener.port == port)
            yield Finding(
                "port-taken",
                ERROR,
                (name,),
                f"port {port} ({wanted[port]}) is taken by {holder.process or 'another process'} on {holder.address}",
                "the server or Ray could not listen there (F42, F57)",
                f"stop that process (on the node: ss -ltnp 'sport = :{port}'), or choose another port in the inventory",
            )


def ports_of(inventory: Inventory, node: str) -> dict[int, str]:
    """Fixed ports that will be listened on at a node, each with its inventory field."""
    pinned = inventory.ray.ports.model_dump(exclude={"workers"})
    wanted = {port: f"ray.ports.{field}" for field, port in pinned.items()}
    if node == inventory.head_name:
        wanted[inventory.serve.port] = "serve.port"
    else:
        wanted.pop(inventory.ray.ports.gcs)
    return wanted


def _runs_ours(node: NodeFacts, inventory: Inventory) -> bool:
    containers: tuple[ContainerFacts, ...] = () if isinstance(node.containers, Unknown) else node.containers
    return any(c.running and c.name == container_name(inventory.cluster) for c in containers)


def _unknown(code: str, node: str, unknown: Unknown) -> Finding:
    return Finding(
        code,
        ERROR,
        (node,),
        unknown.reason,
        "what could not be read cannot be trusted to be right",
        "run it by hand on the node, then try again",
    )


def _minority(groups: Mapping[Any, list[str]]) -> tuple[str, ...]:
    """The nodes outside the largest group; the first group wins a tie, so of two nodes the second is named."""
    largest = max(groups.values(), key=len)
    return tuple(name for names in groups.values() if names is not largest for name in names)


def _same(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> bool:
    """Whether both say the same of a key, as _freeze tells values apart: null is not absent, 1 is not true."""
    return (key in one) == (key in other) and _freeze(one.get(key)) == _freeze(other.get(key))


def _freeze(value: Any) -> Hashable:
    if isinstance(value, Mapping):
        return tuple(sorted((key, _freeze(item)) for key, item in value.items()))
    if isinstance(value, list):
        return tuple(_freeze(item) for item in value)
    return (type(value).__name__, value)
