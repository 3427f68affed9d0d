"""The executor can serve what is asked for, with this image and this model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.experts import experts
from clusterctl.findings.topics.gpus import known_per_node
from clusterctl.findings.topics.image import reports
from clusterctl.inventory.layout import engine_counts, engine_room, layout_of
from clusterctl.inventory.model import Inventory
from clusterctl.modes.all import possible_modes
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
