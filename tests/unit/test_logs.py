"""`logs`: whose line it is, what ends it, and what is said of a node that cannot be read; played by stand-ins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from clusterctl.actions.logs import show_logs
from clusterctl.errors import ClusterctlError, NodesError
from clusterctl.hosts.engine.engine import Container, LogChunk
from clusterctl.hosts.ssh.errors import ConnectError
from tests.unit.stand_ins import Engine, Script, hosts_of, look, said
from tests.unit.support import inventory

NAME = f"{inventory().cluster}-node"
RUNS = look(running=True)
ENDED = look(running=False)
AGAIN = look(running=True, restarting=True)

pytestmark = pytest.mark.timeout(60)


@dataclass
class Lives(Engine):
    """An engine that starts its container anew with each log that it gives out."""

    life: int = 0
    tails: tuple[int | None, ...] = ()
    stays: bool = False
    """The container is not started anew; only its log ends."""

    def logs(self, container: str, **how: Any) -> Iterator[LogChunk]:
        self.life += 1
        self.tails += (how["tail"],)
        return super().logs(container, **how)

    def started_at(self, container: str) -> float:
        return 100.0 if self.stays else 100.0 + self.life


def node(name: str, scripts: list[Script], looks: list[Container] | None = None, **more: Any) -> Lives:
    """A node whose container gives out these logs; `looks` is what the engine says of it, look by look."""
    return Lives(name, [], logs_of={NAME: scripts}, states={NAME: [RUNS, *(looks or [ENDED])]}, **more)


def cannot_be_read() -> None:
    raise ClusterctlError("the engine is away", hint="start it")


def shown(*nodes: Lives, tail: int | None = None, follow: bool = True) -> list[str]:
    lines: list[str] = []
    show_logs(hosts_of(nodes), NAME, [each.node for each in nodes], follow=follow, tail=tail, write=lines.append)
    return lines


@pytest.mark.parametrize("follow", [False, True])
def test_lines_carry_their_nodes_name_and_stand_alone_with_one_node(follow: bool) -> None:
    one, other = [said("a\nhalf ")], [said("b\n")]
    assert sorted(shown(node("gpu1", [one]), node("gpu2", [other]), follow=follow)) == [
        "gpu1 | a",
        "gpu1 | half ",
        "gpu2 | b",
    ]
    assert shown(node("gpu1", [one]), follow=follow) == ["a", "half "]


@pytest.mark.parametrize("follow", [False, True])
def test_a_node_that_cannot_be_read_is_an_error_with_its_fix_after_the_others_lines(follow: bool) -> None:
    lines: list[str] = []
    nodes = [node("gpu1", [[said("one\n"), cannot_be_read]]), node("gpu2", [[said("two\n")]])]
    with pytest.raises(NodesError) as caught:
        show_logs(hosts_of(nodes), NAME, ["gpu1", "gpu2"], follow=follow, tail=None, write=lines.append)
    assert sorted(lines) == ["gpu1 | one", "gpu2 | two"]
    assert caught.value.message == "logs failed on 1 node:\n  gpu1: the engine is away\n    fix: start it"
    assert caught.value.exit_code == 1


def test_nodes_that_failed_are_named_in_the_inventorys_order() -> None:
    hosts = hosts_of([node("gpu1", [[cannot_be_read]])])
    hosts.unreachable["gpu2"] = ConnectError("gpu2", "no answer")
    with pytest.raises(NodesError) as caught:
        show_logs(hosts, NAME, ["gpu1", "gpu2"], follow=True, tail=None, write=print)
    assert [failure.node for failure in caught.value.failures] == ["gpu1", "gpu2"]


def test_a_container_that_the_engine_starts_again_is_followed_into_its_next_life() -> None:
    engine = node("gpu1", [[said("died\n")], [said("began anew\n")]], [AGAIN, RUNS, ENDED])
    assert shown(engine, tail=5) == ["died", "began anew"]
    assert engine.since == [0, 101.0], "from its new start on, so that no line comes twice"
    assert engine.tails == (5, None), "of its next life, everything"


@pytest.mark.parametrize("looks", [[ENDED], []], ids=["ended", "removed"])
def test_a_container_that_does_not_come_back_ends_it(looks: list[Container]) -> None:
    engine = node("gpu1", [[said("stopped\n")]], looks)
    if not looks:
        engine.logs_of[NAME] = [[said("stopped\n"), engine.states.clear]]
    assert shown(engine) == ["stopped"]


def test_a_log_that_ends_while_its_container_runs_is_said() -> None:
    engine = node("gpu1", [[said("a\n")]], [RUNS], stays=True)
    with pytest.raises(NodesError, match="gpu1: the log of its container ended while it runs"):
        shown(engine)
    assert len(engine.since) == 1, "read once: no line comes twice"


def test_without_follow_the_log_is_read_once() -> None:
    engine = node("gpu1", [[said("a\n")]], [AGAIN, RUNS])
    assert shown(engine, follow=False) == ["a"]
    assert engine.since == [0]
