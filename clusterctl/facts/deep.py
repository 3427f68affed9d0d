"""What only work on the nodes shows: the image run once on each. `check` asks it; `up` only with `--check full`.

Not part of the one probe pass (gather.py): it starts containers and takes seconds. Nothing it starts stays.
"""

from __future__ import annotations

from dataclasses import replace

from clusterctl.facts.model import ClusterFacts, DeepFacts
from clusterctl.hosts.host import Hosts


def with_deep(hosts: Hosts, facts: ClusterFacts, *, ask_registry: bool = False) -> ClusterFacts:
    """The facts, and what running something on the nodes adds to them."""
    return replace(facts, deep=gather_deep(hosts, facts, ask_registry=ask_registry))


def gather_deep(hosts: Hosts, facts: ClusterFacts, *, ask_registry: bool = False) -> DeepFacts:
    """Everything that is asked by running something. Each part is one call here and one field of DeepFacts."""
    return DeepFacts(images={})
