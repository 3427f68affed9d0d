"""What a run has changed on the nodes: values from which it can be taken back."""

from __future__ import annotations

from dataclasses import dataclass

from clusterctl.planning.steps import Step


@dataclass(frozen=True)
class NewContainer:
    """A container that this run created; removing it undoes it."""

    node: str
    id: str


@dataclass(frozen=True)
class NewFiles:
    """Files that this run replaced in a container that goes on; its own record says what they were."""

    step: Step


Undo = NewContainer | NewFiles


def created(undo: list[Undo]) -> dict[str, str]:
    """Node → ID of the container that this run created there."""
    return {each.node: each.id for each in undo if isinstance(each, NewContainer)}
