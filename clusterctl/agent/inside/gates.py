"""What must be true before the server starts: one row for each kind of gate that agent.json can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .members import Member, Members
from .node import Node
from .ray_cluster import RayNodes
from .tasks import GiveUpError

WAITED_FOR = frozenset({"ray-nodes-missing", "members-missing", "head-lost"})
"""Not this node's failure: another one is away, for however long. They do not count towards the limit."""


class Gate(Protocol):
    """Opens before each start of the server."""

    async def watch(self) -> None:
        """Run from the agent's start to its end whatever the gate needs to see. Raises GiveUpError when it cannot."""

    async def opened(self) -> None:
        """Return when the server may start. Raises GiveUpError when that will not come."""

    def serving(self) -> None:
        """The server serves: what it serves with must stay from now on."""

    async def stays(self) -> None:
        """Raise GiveUpError as soon as what let it open, or what the server serves with, is no more; StoodDownError
        where another node has decided it."""

    def closed(self, error: GiveUpError | None) -> None:
        """The server has ended, or cannot go on: for that reason; None where it was asked for. Also when there is none;
        once is as good as twice."""

    async def end(self) -> None:
        """End what `watch` has started."""


class AlwaysOpen:
    """The gate `none`."""

    def __init__(self, node: Node, spec: Mapping[str, Any]) -> None:
        """Needs nothing."""

    async def watch(self) -> None:
        """There is nothing to see."""

    async def opened(self) -> None:
        """At once."""

    def serving(self) -> None:
        """There is nothing to remember."""

    async def stays(self) -> None:
        """It always does."""

    def closed(self, error: GiveUpError | None) -> None:
        """There is nobody to tell."""

    async def end(self) -> None:
        """There is nothing to end."""


GATES: Mapping[str, Callable[[Node, Mapping[str, Any]], Gate]] = {
    "none": AlwaysOpen,
    "ray-nodes": RayNodes,
    "members": Members,
    "member": Member,
}
"""Kind → the gate, made of the node and of what agent.json says of it."""
