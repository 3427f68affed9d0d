"""What only work on the nodes shows: the image run once on each. `check` asks it; and `up`, unless `--check quick`.

Not part of the one probe pass (gather.py): it starts containers and takes seconds. Nothing it starts stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from clusterctl.facts.cluster import ClusterFacts, DeepFacts
from clusterctl.hosts.host import Hosts
from clusterctl.inventory.model import Inventory
from clusterctl.preflight.collective import gather_collective
from clusterctl.preflight.container import remove_probes
from clusterctl.preflight.image import gather_images, gpus_wanted
from clusterctl.preflight.network import gather_pairs


@dataclass(frozen=True)
class Asked:
    """What is asked beyond what every `check` asks."""

    registry: bool = False
    """vLLM's ModelRegistry about the model: minutes of two cores."""
    bandwidth: bool = False
    """TCP throughput of every pair: 4 s more for each further node."""
    collective: bool = False
    """An all-reduce across the nodes: 10 s, and the accelerators."""


NOTHING_MORE = Asked()


def with_deep(hosts: Hosts, inventory: Inventory, facts: ClusterFacts, asked: Asked = NOTHING_MORE) -> ClusterFacts:
    """The facts, and what running something on the nodes adds to them."""
    remove_probes(hosts, facts)
    return replace(facts, deep=gather_deep(hosts, inventory, facts, asked))


def gather_deep(hosts: Hosts, inventory: Inventory, facts: ClusterFacts, asked: Asked = NOTHING_MORE) -> DeepFacts:
    """Everything that is asked by running something. Each part is one call here and one field of DeepFacts."""
    return DeepFacts(
        images=gather_images(hosts, inventory, facts, ask_registry=asked.registry),
        gpus_wanted=gpus_wanted(inventory, facts),
        pairs=gather_pairs(hosts, inventory, facts, bandwidth=asked.bandwidth),
        collective=gather_collective(hosts, inventory, facts) if asked.collective else None,
    )
