"""What differs between the nodes, cell by cell, and how bad each difference is. Pure.

A new row is one line in `rows`. What could not be read differs from nothing, and what was not asked has no row.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from clusterctl.deployment.way import way_of
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.image_report import ImageReport
from clusterctl.facts.records import Gpu, ImageFacts
from clusterctl.inventory.model import Inventory
from clusterctl.modes.all import mode_of


class Rating(StrEnum):
    """How bad a difference is."""

    FAILS = "fails"
    """The cluster would not start, or break later."""
    RISKY = "risky"
    """It may fail, be slow, or answer differently."""
    HARMLESS = "harmless"
    """Shown because it may explain something else."""


Read = Callable[[str, NodeFacts, ImageReport | None], object]
"""A cell: from the node's name, its facts and its image's report. None: absent. Unknown: not known."""


@dataclass(frozen=True)
class Row:
    """One thing that should be alike."""

    title: str
    rating: Rating
    reason: str
    """Why a difference matters, or why it does not."""
    code: str | None
    """Code of the finding that reports it; what is harmless has none."""
    read: Read


@dataclass(frozen=True)
class Difference:
    """A row with at least two different cells."""

    title: str
    rating: Rating
    reason: str
    code: str | None
    waived: bool
    cells: Mapping[str, str]
    """Node → value, in inventory order; `?` where it is not known, `–` where there is none."""

    def to_json(self) -> dict[str, Any]:
        """The difference for machines."""
        return asdict(self)

    @property
    def groups(self) -> Mapping[str, list[str]]:
        """Value → nodes that have it; nodes of which it is not known are in none."""
        found: dict[str, list[str]] = defaultdict(list)
        for node, value in self.cells.items():
            if value != NOT_KNOWN:
                found[value].append(node)
        return found

    @property
    def values(self) -> str:
        """As a finding shows it: each value with its nodes."""
        return "; ".join(f"{', '.join(nodes)} {value}" for value, nodes in self.groups.items())


NOT_KNOWN = "?"
ABSENT = "–"
OWN_ROWS = frozenset({"ray", "vllm", "torch", "transformers"})
"""Distributions with a row of their own."""
SHOWN_DISTRIBUTIONS = 6
"""Names in one cell; the number of the others follows."""


def differences(inventory: Inventory, facts: ClusterFacts) -> tuple[Difference, ...]:
    """The table: only rows in which nodes differ, in the order of `rows`."""
    reports = facts.deep.images if facts.deep is not None else {}
    found = []
    for row in rows(inventory, facts):
        cells = {name: _cell(row.read(name, node, _report(reports.get(name)))) for name, node in facts.nodes.items()}
        if len(set(cells.values()) - {NOT_KNOWN}) > 1:
            waived = row.code in inventory.waive
            found.append(Difference(row.title, row.rating, row.reason, row.code, waived, cells))
    return tuple(found)


def rows(inventory: Inventory, facts: ClusterFacts) -> Iterator[Row]:
    """Everything that is compared, what fails first."""
    counted = inventory.accelerator.kind == "nvidia"
    fails, risky, harmless = Rating.FAILS, Rating.RISKY, Rating.HARMLESS
    yield Row("image", fails, "another image behind the same name", "image-differs", _image)
    if mode_of(inventory).name == "ray":
        yield Row("Ray", fails, "Ray refuses a node with another version", "ray-differs", _reported("ray"))
        yield Row(
            "Python", fails, "Ray refuses another Python, its patch level too", "ray-differs", _reported("python")
        )
    else:
        yield Row("Ray", harmless, "serve.executor is mp", None, _reported("ray"))
        reason = "the ranks exchange pickled objects"
        yield Row("Python", risky, reason, "software-differs", _reported("python"))
    yield Row("vLLM", fails, "the ranks exchange pickled objects of vLLM's own", "vllm-differs", _reported("vllm"))
    reason = 'the first collective fails: "receiving 524288 bytes instead of 65536"'
    yield Row("NCCL", fails, reason, "nccl-differs", _reported("nccl"))
    yield Row("MTU", fails, "small messages pass and large ones hang", "mtu-differs", _mtu(inventory, facts))
    if counted and inventory.accelerator.per_node == "auto":
        yield Row("GPUs", fails, "each node holds stages of the same tensor-parallel size", "gpus-differ", _gpus)
    elif counted:
        yield Row("GPUs", harmless, "accelerator.per_node says how many are used", None, _gpus)
    for title, name in (("torch", "torch"), ("CUDA of torch", "cuda"), ("transformers", "transformers")):
        yield Row(title, risky, "ranks may compute differently, or not at all", "software-differs", _reported(name))
    yield Row(
        "Python distributions", risky, "another image, or a volume hides a part of it", "software-differs",
        _distributions(facts),
    )  # fmt: skip
    if counted:
        model, memory, driver = _of_gpus(_model), _of_gpus(_memory), _of_gpus(lambda gpu: gpu.driver_version or None)
        yield Row("GPU model", risky, "the gang is as fast as its slowest GPU", "gpu-model-differs", model)
        yield Row("GPU memory", risky, "every rank gets the KV cache of the smallest", "gpu-model-differs", memory)
        reason = "it determines which CUDA runs, and the fabric manager must match it"
        yield Row("NVIDIA driver", risky, reason, "driver-differs", driver)
        yield Row("CUDA of the driver", harmless, "follows from the driver", None, _reported("driver_cuda"))
    for variable in _variables(facts):
        yield _variable_row(inventory, facts, variable)
    yield Row("memlock, bytes", harmless, "in the container; too low is a finding", None, _reported("memlock_bytes"))
    yield Row(
        "shared memory, bytes", harmless, "in the container; too little is a finding", None, _reported("shm_bytes")
    )
    yield Row("glibc in the image", harmless, "not part of what nodes exchange", None, _reported("glibc"))
    yield Row("kernel", harmless, "nodes exchange nothing of it", None, lambda _, node, __: node.kernel)
    yield Row("OS", harmless, "nodes exchange nothing of it", None, lambda _, node, __: node.system.os)
    yield Row("memory, GiB", harmless, "too little of it is a finding", None, _total_memory)


def _report(answer: object) -> ImageReport | None:
    return answer if isinstance(answer, ImageReport) else None


def _cell(value: object) -> str:
    if isinstance(value, Unknown):
        return NOT_KNOWN
    return ABSENT if value is None else str(value)


def _reported(field: str) -> Read:
    """A field of the image's report."""
    return lambda _, __, report: Unknown("not asked") if report is None else getattr(report, field)


def _image(_: str, node: NodeFacts, __: ImageReport | None) -> object:
    # Two builds of one Dockerfile have different IDs and equal layers (lab-facts): layers decide. That a node has none
    # is a finding of its own (image-absent).
    if not isinstance(node.image, ImageFacts):
        return Unknown("no image")
    layers = "\n".join(node.image.layers or (node.image.id,))
    return f"layers {hashlib.sha256(layers.encode()).hexdigest()[:12]}"


def _mtu(inventory: Inventory, facts: ClusterFacts) -> Read:
    """Of the interface through which the other nodes are reached."""

    def read(name: str, node: NodeFacts, _: ImageReport | None) -> object:
        found = way_of(inventory, name, facts)
        interfaces = node.system.interfaces
        if found is None or isinstance(interfaces, Unknown):
            return Unknown("no interface")
        return next((i.mtu for i in interfaces if i.name == found.interface), Unknown("no such interface"))

    return read


def _total_memory(_: str, node: NodeFacts, __: ImageReport | None) -> object:
    # Equal machines differ by what their firmware keeps for itself.
    total = node.system.memory_total_bytes
    return round(total / (1 << 30)) if isinstance(total, int) else total


def _gpus(_: str, node: NodeFacts, __: ImageReport | None) -> object:
    return len(node.gpus) if isinstance(node.gpus, tuple) else node.gpus


def _of_gpus(value: Callable[[Gpu], str | None]) -> Read:
    """What the node's GPUs have, each value once."""

    def read(_: str, node: NodeFacts, __: ImageReport | None) -> object:
        if not isinstance(node.gpus, tuple):
            return Unknown("no GPUs, or not known")
        return ", ".join(sorted({text for gpu in node.gpus if (text := value(gpu)) is not None})) or None

    return read


def _model(gpu: Gpu) -> str:
    return gpu.name


def _memory(gpu: Gpu) -> str | None:
    return None if gpu.memory_total_mib is None else f"{gpu.memory_total_mib} MiB"


def _distributions(facts: ClusterFacts) -> Read:
    """Digest of all, and those that differ; nothing where all that differs has a row of its own."""
    reports = [report for report in _answers(facts) if isinstance(report, ImageReport)]
    every = sorted({name for report in reports for name in report.distributions} - OWN_ROWS)
    differ = [name for name in every if len({report.distributions.get(name) for report in reports}) > 1]

    def read(_: str, __: NodeFacts, report: ImageReport | None) -> object:
        if report is None or not differ:
            return Unknown("not asked, or all alike")
        shown = ", ".join(f"{name} {report.distributions.get(name, ABSENT)}" for name in differ[:SHOWN_DISTRIBUTIONS])
        more = f" and {len(differ) - SHOWN_DISTRIBUTIONS} more" if len(differ) > SHOWN_DISTRIBUTIONS else ""
        return f"sha256:{report.digest[:12]} ({shown}{more})"

    return read


def _answers(facts: ClusterFacts) -> Iterable[object]:
    return facts.deep.images.values() if facts.deep is not None else ()


def _variables(facts: ClusterFacts) -> list[str]:
    """Names of all settings that any node's container has."""
    return sorted(
        {name for report in _answers(facts) if isinstance(report, ImageReport) for name in report.environment}
    )


def _variable_row(inventory: Inventory, facts: ClusterFacts, variable: str) -> Row:
    def read(_: str, __: NodeFacts, report: ImageReport | None) -> object:
        return Unknown("not asked") if report is None else report.environment.get(variable)

    if any(variable in node.env for node in inventory.nodes):
        return Row(variable, Rating.HARMLESS, "nodes[].env in the inventory sets it", None, read)
    reason = "a setting of NCCL, Ray or vLLM should be the same on all nodes"
    return Row(variable, Rating.RISKY, reason, "environment-differs", read)
