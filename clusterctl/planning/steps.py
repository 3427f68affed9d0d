"""Steps of a plan: one class for each kind of change to a node. Each says of itself what it does, and why.

Another kind of step (copying an image, say) is another class here, one function in apply/ that carries it out and
returns what undoes it, and the place in planning/plan.py that decides on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from clusterctl.facts.records import ContainerFacts
from clusterctl.planning.container import ContainerSpec
from clusterctl.planning.difference import Change


@dataclass(frozen=True)
class Step:
    """What `up` does to the serving container of one node, and why."""

    action: ClassVar[str]
    """Its name in JSON and in the history."""
    sign: ClassVar[str]
    words: ClassVar[str]
    """For a person; `{}` is the container's name."""

    node: str
    reasons: tuple[str, ...]
    changes: tuple[Change, ...]
    spec: ContainerSpec
    existing: tuple[ContainerFacts, ...]
    """The cluster's containers on the node: what is removed before a new one is created, or what is kept."""

    def lines(self) -> Iterator[str]:
        """The step for a person."""
        yield f"{self.sign:>3} {self.node}: {self.words.format(self.spec.name)}"
        yield from (f"      {reason}" for reason in self.reasons)
        yield from (f"      {change}" for change in self.changes)

    def to_json(self) -> dict[str, Any]:
        """The step for machines."""
        return {
            "name": self.node,
            "action": self.action,
            "container": self.spec.name,
            "reasons": list(self.reasons),
            "differences": [{"path": change.path, "old": change.old, "new": change.new} for change in self.changes],
        }


class Create(Step):
    """A container where there is none."""

    action, sign, words = "create", "+", "create container {}"


class Replace(Step):
    """A new container in place of those that are there."""

    action, sign, words = "replace", "-/+", "replace container {}"


class RestartServer(Step):
    """New files in the container that runs, and a new server that reads them."""

    action, sign, words = "restart-server", "~", "restart only the server in container {}"


class Update(Step):
    """New files in the container that runs, which its agent reads by itself, or another restart policy."""

    action, sign, words = "update", "~", "update container {} without a restart"


class Keep(Step):
    """Nothing."""

    action, sign, words = "keep", " ", "keep container {}"


KINDS: tuple[type[Step], ...] = (Create, Replace, RestartServer, Update, Keep)
"""In the order in which they are counted."""

NEW_CONTAINER = (Create, Replace)
"""Steps after which the node has a new container."""

NEW_FILES = (RestartServer, Update)
"""Steps that replace files in a container that goes on."""
