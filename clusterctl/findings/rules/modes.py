"""The executor can serve what is asked for, with this image and this model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from clusterctl.deployment.resolve import resolve
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.image_report import ImageReport
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.experts import experts
from clusterctl.findings.topics.gpus import known_per_node
from clusterctl.findings.topics.image import reports
from clusterctl.inventory.layout import engine_counts, engine_room, layout_of
from clusterctl.inventory.model import Inventory
from clusterctl.modes.all import MODES, mode_of, possible_modes, with_executor
from clusterctl.modes.engines import refusals
from clusterctl.modes.mode import Refusal, Seen

REFUSED = Code(
    name="mode-refused",
    severity=ERROR,
    title="This way of serving is not possible here",
    runbook="modes.md",
    seen="{reason}",
    why="vLLM would refuse it, or fail, after every node has started",
    fix="{instead}",
    note="The reason names the sizes, the image or the model that are in the way, and the fix the nearest combination "
    "that serves. What the inventory alone tells is refused before any node is asked.",
    waivable=False,
)


@rule(Section.LAYOUT, REFUSED)
def modes(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The executor can serve what is asked for, with this image and this model."""
    seen, possible = Seen(lacks=_lacks(facts), experts=experts(facts)), possible_modes(inventory)
    found = [*_engines(inventory, facts), *refusals(inventory, seen), *_balanced(inventory, facts, seen.experts or 0)]
    found += _flags(inventory, facts) if len(possible) == 1 else ()
    # Where there is still a choice, the other one serves.
    found += possible[0].refuses(inventory, seen) if len(possible) == 1 else ()
    for refusal in found:
        yield REFUSED.found(reason=refusal.reason, instead=refusal.instead)


def _lacks(facts: ClusterFacts) -> frozenset[str] | None:
    """What modes ask for and the image does not have, on one node at least."""
    found = [report for _, _, report in reports(facts)]
    return frozenset({"ray"} if any(report.ray is None for report in found) else ()) if found else None


def _engines(inventory: Inventory, facts: ClusterFacts) -> Iterator[Refusal]:
    """Engines that the accelerators do not divide into."""
    per_node, nodes, engines = known_per_node(inventory, facts), len(inventory.nodes), inventory.serve.data_parallel
    if per_node is None:
        return
    try:
        engine_room(nodes, per_node, engines)
    except ValueError as error:
        nearest = min(engine_counts(nodes, per_node), key=lambda count: abs(count - engines))
        yield Refusal(str(error), f"set serve.data_parallel: {nearest}")


def _balanced(inventory: Inventory, facts: ClusterFacts, number: int) -> Iterator[Refusal]:
    """Experts that do not divide over the ranks: vLLM 0.32 gives some ranks one more, but not where it balances them
    (model_executor/layers/fused_moe/layer.py: "EPLB currently only supports even distribution")."""
    options, per_node = inventory.serve.options, known_per_node(inventory, facts)
    if not (options.get("enable-eplb") and inventory.serve.expert_parallel and number and per_node):
        return
    with suppress(ValueError):  # sizes that do not fit: other findings say so
        layout = layout_of(inventory, per_node)
        ranks = layout.tensor_parallel * layout.data_parallel
        redundant = _redundant(options.get("eplb-config"))
        if short := -(number + redundant) % ranks:
            yield Refusal(
                f"enable-eplb needs as many experts on each rank: {number + redundant} do not divide by {ranks} ranks",
                f"set serve.options.eplb-config: {{num_redundant_experts: {redundant + short}}}, or remove enable-eplb",
            )


def _redundant(config: object) -> int:
    """Copies of experts that are asked for."""
    if isinstance(config, str):
        with suppress(ValueError):
            config = json.loads(config)
    number = config.get("num_redundant_experts") if isinstance(config, Mapping) else None
    return number if isinstance(number, int) else 0


def _flags(inventory: Inventory, facts: ClusterFacts) -> Iterator[Refusal]:
    """Options that this way of serving needs and the image's vLLM does not have."""
    found = [report for _, _, report in reports(facts) if report.serve_flags is not None]
    if not found or (missing := _missing_flags(inventory, facts, found)) is None or not missing:
        return
    version = found[0].vllm
    others = (mode for mode in MODES if mode.name != inventory.serve.executor)
    other = next((mode.name for mode in others if _serves(with_executor(inventory, mode.name), facts, found)), None)
    newer = "use an image with a newer vLLM"
    yield Refusal(
        f"vLLM {version} in {inventory.container.image} has no {', '.join(missing)}",
        f"set serve.executor: {other}, or {newer}" if other is not None else newer,
    )


def _serves(inventory: Inventory, facts: ClusterFacts, found: Sequence[ImageReport]) -> bool:
    """Whether the image has what this executor needs."""
    lacks = frozenset({"ray"} if any(report.ray is None for report in found) else ())
    refused = [*mode_of(inventory).refuses(inventory, Seen(lacks=lacks))]
    return not refused and _missing_flags(inventory, facts, found) == ()


def _missing_flags(inventory: Inventory, facts: ClusterFacts, found: Sequence[ImageReport]) -> tuple[str, ...] | None:
    """What the executor would give vLLM on any node and some image's vLLM does not know; None where nothing can be
    planned."""
    try:
        deployment = resolve(inventory, facts)
    except ValueError:
        return None
    mode = mode_of(inventory)
    wanted = {f"--{name}" for place in deployment.places.values() for name in mode.server(deployment, place)}
    return tuple(sorted(flag for flag in wanted if any(flag not in (report.serve_flags or ()) for report in found)))
