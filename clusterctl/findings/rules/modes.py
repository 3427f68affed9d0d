"""The executor can serve what is asked for, with this image and this model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.model_files import ModelFiles
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.gpus import known_per_node
from clusterctl.findings.topics.image import reports
from clusterctl.inventory.layout import engine_counts, engine_room
from clusterctl.inventory.model import Inventory
from clusterctl.layout.architecture import architecture
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
    seen, possible = Seen(lacks=_lacks(facts), experts=_experts(facts)), possible_modes(inventory)
    found = [*_engines(inventory, facts), *refusals(inventory, seen)]
    # Where there is still a choice, the other one serves.
    found += possible[0].refuses(inventory, seen) if len(possible) == 1 else ()
    for refusal in found:
        yield REFUSED.found(reason=refusal.reason, instead=refusal.instead)


def _lacks(facts: ClusterFacts) -> frozenset[str] | None:
    """What modes ask for and the image does not have, on one node at least."""
    found = [report for _, _, report in reports(facts)]
    return frozenset({"ray"} if any(report.ray is None for report in found) else ()) if found else None


def _experts(facts: ClusterFacts) -> int | None:
    """Experts of the model, by the first config.json that could be read."""
    for node in facts.nodes.values():
        if isinstance(node.model, ModelFiles) and isinstance(node.model.config, Mapping):
            return architecture(node.model.config).experts or 0
    return None


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
