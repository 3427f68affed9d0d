"""Which executor `serve.executor: auto` means: what runs decides, else what the image holds. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from clusterctl.agent.labels import LABEL_EXECUTOR, UNLABELLED_EXECUTOR
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.image_report import ImageReport
from clusterctl.inventory.model import Inventory
from clusterctl.modes.all import BY_NAME, possible_modes, with_executor


@dataclass(frozen=True)
class Choice:
    """An inventory whose executor is decided, where that was possible."""

    inventory: Inventory
    executor: str | None
    """None: nothing tells; the inventory is as it was."""
    why: str


def choose(inventory: Inventory, facts: ClusterFacts) -> Choice:
    """Decide from the inventory, the labels of the cluster's containers, and what is known of the image."""
    asked, possible = inventory.serve.executor, possible_modes(inventory)
    if asked != "auto":
        return Choice(inventory, asked, "serve.executor says so")
    if len(possible) == 1:
        return _chosen(inventory, possible[0].name, "on one node nothing else is needed")
    if (running := executor_of(facts)) is not None:
        return _chosen(inventory, running, "it is what runs")
    has_ray = ray_in_image(facts)
    if has_ray is None:
        return Choice(inventory, None, "nothing runs, and the image was not asked whether it has Ray")
    return _chosen(inventory, "ray" if has_ray else "mp", f"the image has {'' if has_ray else 'no '}Ray")


def _chosen(inventory: Inventory, executor: str, why: str) -> Choice:
    return Choice(with_executor(inventory, executor), executor, why)


def executor_of(facts: ClusterFacts) -> str | None:
    """What the cluster's containers were started with; None where there are none."""
    for node in facts.nodes.values():
        for container in node.containers if isinstance(node.containers, tuple) else ():
            executor = container.labels.get(LABEL_EXECUTOR, UNLABELLED_EXECUTOR)
            if executor in BY_NAME:
                return executor
    return None


def ray_in_image(facts: ClusterFacts) -> bool | None:
    """Whether the image has Ray, on every node that was asked; None where none answered."""
    answers = facts.deep.images.values() if facts.deep is not None else ()
    reports = [answer for answer in answers if isinstance(answer, ImageReport)]
    return all(report.ray is not None for report in reports) if reports else None
