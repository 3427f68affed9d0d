"""Which image and which model: what every node has, in the same form. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clusterctl.facts.survey import FoundModel, Survey
from clusterctl.inventory.rules.placeholders import PLACEHOLDER
from clusterctl.proposal.choice import Choice, Rejected, listed

WEIGHTS_SHARE = 0.9
"""Of all accelerators' memory: what weights may take of it, so that something is left for the KV cache."""


@dataclass(frozen=True)
class Holding:
    """One thing by its name, and who has it."""

    name: str
    nodes: tuple[str, ...]
    forms: int
    """In how many different forms."""
    missing: tuple[str, ...]
    """Nodes that were asked and do not have it."""

    @property
    def everywhere(self) -> bool:
        """Whether every node that was asked has the same one."""
        return not self.missing and self.forms == 1

    @property
    def text(self) -> str:
        """Who has it."""
        if self.missing:
            return f"on {listed(self.nodes)}, not on {listed(self.missing)}"
        if self.forms > 1:
            return "on every node, but not the same"
        return "on every node, the same" if len(self.nodes) > 1 else f"on {self.nodes[0]}"


def _holding(name: str, by_node: Mapping[str, Mapping[str, Any]]) -> Holding:
    """`by_node`: node → name → form."""
    having = tuple(node for node, things in by_node.items() if name in things)
    forms = {by_node[node][name] for node in having}
    return Holding(name, having, len(forms), tuple(node for node in by_node if node not in having))


def image(surveys: Mapping[str, Survey], given: str | None) -> Choice:
    """The newest that every node has; else the one that most have."""
    by_node = {
        name: {each.name: each for each in said.images}
        for name, said in surveys.items()
        if isinstance(said.images, tuple)
    }
    if given is not None:
        return Choice("container.image", given, "--image says so")
    created: dict[str, str] = {}
    for images in by_node.values():
        for each in images.values():
            created[each.name] = max(created.get(each.name, ""), each.created_at)
    layers = {node: {each.name: each.layers for each in images.values()} for node, images in by_node.items()}
    found = [_holding(name, layers) for name in created]
    # Twice: sorting is stable, and the newest is first among equals.
    found.sort(key=lambda each: (created[each.name], _version(each.name)), reverse=True)
    found.sort(key=lambda each: (not each.everywhere, -len(each.nodes), each.forms))
    silent = [name for name in surveys if name not in by_node]
    unasked = (f"the engine of {listed(silent)} could not be asked",) if silent else ()
    if not found:
        return Choice("container.image", PLACEHOLDER, "no image with vLLM in it was found on any node", (), unasked)
    best, *rest = found
    warnings = () if best.everywhere else (f"{best.name} is {best.text}",)
    why = f"{best.text}{', and the newest of such' if any(each.everywhere for each in rest) else ''}"
    rejected = tuple(Rejected(each.name, each.text if not each.everywhere else "an older one") for each in rest)
    return Choice("container.image", best.name, why, rejected, (*warnings, *unasked))


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(digits[:9]) for digits in re.findall(r"\d+", name.rpartition(":")[2]))


def model(surveys: Mapping[str, Survey], given: str | None, memory_bytes: int | None) -> Choice:
    """The largest that every node has and whose weights fit; else the one that most nodes have.

    `memory_bytes`: of all accelerators together, where it is known.
    """
    by_node = {
        name: {each.path: each for each in said.models}
        for name, said in surveys.items()
        if isinstance(said.models, tuple)
    }
    if given is not None:
        return Choice("model.path", given, "--model says so")
    examples = {each.path: each for models in by_node.values() for each in models.values()}
    sizes = {
        node: {each.path: (each.kind, each.size_bytes) for each in models.values()} for node, models in by_node.items()
    }
    found = [_holding(path, sizes) for path in examples]
    found.sort(key=lambda each: _model_order(each, examples[each.name], memory_bytes))
    silent = [name for name in surveys if name not in by_node]
    unasked = (f"{listed(silent)} could not be searched",) if silent else ()
    if not found:
        return Choice("model.path", PLACEHOLDER, "no model's directory was found in the usual places", (), unasked)
    best, *rest = found
    warnings = () if best.everywhere else (f"{best.name} is {best.text}",)
    rejected = tuple(Rejected(each.name, _why_not(each, examples[each.name], memory_bytes)) for each in rest)
    return Choice(
        "model.path", best.name, f"{best.text}: {_size(examples[best.name])}", rejected, (*warnings, *unasked)
    )


def _model_order(
    held: Holding, example: FoundModel, memory_bytes: int | None
) -> tuple[bool, int, bool, bool, bool, int, str]:
    return (
        not held.everywhere,
        -len(held.nodes),
        example.kind != "config",  # what vLLM reads best, and what a layout can be computed for
        not _fits(example, memory_bytes),
        "/snapshots/" in example.path,  # links into a cache that a download may change
        -example.size_bytes,
        held.name,
    )


def _fits(model: FoundModel, memory_bytes: int | None) -> bool:
    return memory_bytes is None or model.size_bytes <= memory_bytes * WEIGHTS_SHARE


def _why_not(held: Holding, example: FoundModel, memory_bytes: int | None) -> str:
    if not held.everywhere:
        return held.text
    if not _fits(example, memory_bytes):
        return f"{_size(example)}: too large for the accelerators' memory"
    return {
        "config": _size(example),
        "params": f"{_size(example)}, of Mistral's form",
        "gguf": f"{_size(example)}, GGUF",
    }[example.kind]


def _size(model: FoundModel) -> str:
    return f"{model.size_bytes / 1e9:.1f} GB" if model.size_bytes >= 1e8 else f"{model.size_bytes / 1e6:.1f} MB"


def memory_of(sizes: Sequence[int | None]) -> int | None:
    """The sum; None where one is not known, and of none."""
    known = [size for size in sizes if size is not None]
    return sum(known) if known and len(known) == len(sizes) else None
