"""`status --watch` looks at the nodes as they are now, not as they were when it began."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from clusterctl.actions.watch import watch_status
from clusterctl.cli.status import _print_line
from clusterctl.hosts.host import Hosts
from tests.unit.support import inventory


@dataclass(frozen=True)
class Node:
    name: str
    reachable: bool


@dataclass(frozen=True)
class Status:
    """As much of a status as the watch itself reads."""

    nodes: tuple[Node, ...]

    def to_json(self) -> dict[str, Any]:
        return {node.name: node.reachable for node in self.nodes}


@dataclass
class Connections:
    """Nodes that answer once they are connected to, if they are on."""

    on: dict[str, bool]
    answering: dict[str, bool] = field(default_factory=dict)
    again: list[list[str]] = field(default_factory=list)
    """Whom each reconnect was told of."""

    def reconnect(self, silent: Collection[str] = ()) -> None:
        self.again.append(list(silent))
        self.answering |= {name: self.on[name] for name in silent}

    def status(self) -> Status:
        return Status(tuple(Node(name, answers) for name, answers in self.answering.items()))


def watched(connections: Connections, monkeypatch: pytest.MonkeyPatch, events: list[dict[str, bool]]) -> None:
    """Watch until the events (what is on from then on) are over; one comes after each look."""
    left: Iterator[dict[str, bool]] = iter(events)

    def look(*_: object) -> Status:
        found = connections.status()
        if (event := next(left, None)) is None:
            raise KeyboardInterrupt
        connections.on |= event
        return found

    monkeypatch.setattr("clusterctl.actions.watch.read_status", look)
    with pytest.raises(KeyboardInterrupt):
        watch_status(cast(Hosts, connections), inventory(), 0.01, _print_line)


def test_a_node_that_comes_back_is_seen_at_the_next_look(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    connections = Connections(on={"gpu1": True, "gpu2": False}, answering={"gpu1": True, "gpu2": False})
    watched(connections, monkeypatch, [{}, {"gpu2": True}, {}])
    looks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [look["gpu2"] for look in looks] == [False, False, True]
    # Before the first look nobody is asked twice; later also those are, whose connections only end without a word.
    assert connections.again == [["gpu2"], ["gpu2"], []]
