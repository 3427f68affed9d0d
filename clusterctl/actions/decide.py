"""The executor of a run: decided once, before anything is checked or planned."""

from __future__ import annotations

from dataclasses import replace

from clusterctl.deployment.executor import Choice, choose
from clusterctl.facts.cluster import ClusterFacts, DeepFacts
from clusterctl.facts.image_report import ImageReport
from clusterctl.hosts.host import Hosts
from clusterctl.inventory.model import Inventory
from clusterctl.preflight.image import gather_images, gpus_wanted
from clusterctl.progress import SILENT, Progress


def decide(hosts: Hosts, inventory: Inventory, facts: ClusterFacts, progress: Progress = SILENT) -> Choice:
    """What `serve.executor` means: the choice holds the decided inventory, which counts from here on.

    Where the inventory and what runs leave it open, the image is run once on one node and asked (a second).
    """
    choice = choose(inventory, facts)
    if choice.executor is None:
        choice = _by_image(hosts, inventory, facts, progress)
    return choice


def _by_image(hosts: Hosts, inventory: Inventory, facts: ClusterFacts, progress: Progress) -> Choice:
    progress.detail("asking the image whether it has Ray")
    answers = gather_images(hosts, inventory, facts, one=True)
    deep = DeepFacts(images=answers, gpus_wanted=gpus_wanted(inventory, facts))
    choice = choose(inventory, replace(facts, deep=deep))
    if choice.executor is not None:
        return choice
    # Why it could not be asked is a finding of its own: no image, or one that does not run.
    failed = [answer.reason for answer in answers.values() if not isinstance(answer, ImageReport)]
    return replace(
        choice, why=f"the image could not be asked whether it has Ray: {next(iter(failed), 'it is on no node')}"
    )
