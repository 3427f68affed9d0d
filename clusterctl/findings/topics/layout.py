"""The declared layout against the model, as `clusterctl layout` reports it."""

from __future__ import annotations

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.inventory.model import Inventory
from clusterctl.layout.report import Report, report


def layout_report(inventory: Inventory, facts: ClusterFacts) -> Report | None:
    """The report, where there is enough to make one: what is missing for it has findings of its own."""
    found = report(inventory, facts)
    return None if isinstance(found, Unknown) else found


def instead(found: Report) -> str:
    """What would do."""
    for other in found.others:
        if other.possible:
            return (
                f"set serve.tensor_parallel: {other.tensor_parallel} and "
                f"serve.pipeline_parallel: {other.pipeline_parallel}"
            )
    return "use other numbers of nodes or accelerators: no layout of these works"
