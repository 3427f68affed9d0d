"""In which order a gang is stopped, what the agents are asked, and for how long anybody waits."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from clusterctl.agent import paths
from clusterctl.agent.state import GONE, SERVER_PHASES
from clusterctl.apply.adopt import adopt
from clusterctl.apply.live import put_back, update
from clusterctl.apply.requests import ask_agent
from clusterctl.apply.shutdown import RAY_STOP_S, Gang, Member, shut_down
from clusterctl.errors import NodesError
from clusterctl.facts.api_key import ApiKeys
from clusterctl.hosts.host import Hosts
from clusterctl.planning.plan import Plan, make_plan
from tests.unit.stand_ins import Engine, Script, hosts_of, phase, run_of, said
from tests.unit.support import cluster_facts, container, deployment, specs, with_containers

KEYS = ApiKeys(b"old", b"new")
GANG: Gang = {"gpu1": (Member("h", "head", True),), "gpu2": (Member("w", "worker", True),)}
DRAINED: Script = (phase("serving"), phase("draining"), said("bye\n"), phase("drained"))


class Cluster:
    """Two nodes with engines that remember; gpu1 is the head."""

    def __init__(
        self, agent: str | None = "serving", log: Script = DRAINED, refuses: Mapping[str, set[str]] | None = None
    ) -> None:
        self.calls: list[tuple[str, ...]] = []
        broken = refuses or {}
        state = {"phase": agent, "since": 7.5} if agent is not None else None
        self.head = Engine(
            "gpu1",
            self.calls,
            logs_of={"h": [log]},
            agents={"h": state},
            refuses=frozenset(broken.get("gpu1", ())),
        )
        worker = Engine("gpu2", self.calls, agents={"w": {"phase": "ray"}}, refuses=frozenset(broken.get("gpu2", ())))
        self.hosts: Hosts = hosts_of([self.head, worker])

    def stop(self, gang: Gang = GANG, drain_s: float = 5.0) -> dict[str, str]:
        left = shut_down(run_of(self.hosts), gang, drain_s=drain_s)
        return {name: error.message for name, error in left.items()}

    @property
    def order(self) -> list[str]:
        return [f"{call} {container}" for _, call, container, *_ in self.calls]


STOPPED = ["policy w", "stop w", "policy h", "stop h"]
"""Nothing that is stopped comes back at a boot, should the rest never happen."""


def test_the_server_then_the_workers_then_the_head() -> None:
    cluster = Cluster()
    assert cluster.stop() == {}
    assert cluster.order == ["write h", "signal h", *STOPPED]
    node, _, _, path, text = cluster.calls[0]
    assert (node, path) == ("gpu1", paths.REQUEST_PATH)
    # The server's own end (timeouts.stop_s) comes after its requests'.
    assert json.loads(text) == {"action": "drain", "by": "me@here", "drain_s": 5.0}
    assert cluster.calls[1] == ("gpu1", "signal", "h", "SIGUSR1")
    assert cluster.head.since == [7.5], "the log from the agent's latest phase on: what was before is of no interest"


@pytest.mark.parametrize("agent", [*SERVER_PHASES, "drained", "failed", "restarting", "stopping", None])
def test_only_a_server_that_runs_or_will_is_drained(agent: str | None) -> None:
    cluster = Cluster(agent)
    cluster.stop()
    drained = agent in SERVER_PHASES
    assert cluster.order == [*(["write h", "signal h"] if drained else []), *STOPPED]


def test_at_once_leaves_the_server_no_time_at_all() -> None:
    cluster = Cluster()
    cluster.stop(drain_s=0)
    assert json.loads(cluster.calls[0][-1])["drain_s"] == 0


@pytest.mark.parametrize("last", GONE)
def test_the_waiting_ends_with_the_agents_word(last: str) -> None:
    cluster = Cluster(log=(phase(last), lambda: pytest.fail("it read on")))
    cluster.stop()
    assert cluster.order[-4:] == STOPPED


def test_the_waiting_ends_when_the_log_ends_or_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    Cluster(log=()).stop()
    monkeypatch.setattr("clusterctl.apply.shutdown.RAY_STOP_S", 0)
    began = time.monotonic()
    # Frames that say nothing of the end, as a server under load writes them.
    cluster = Cluster(log=(said("x\n"), lambda: time.sleep(0.05), *(said("x\n") for _ in range(3))))
    cluster.stop(drain_s=0)
    assert time.monotonic() - began < RAY_STOP_S
    assert cluster.order[-4:] == STOPPED


def test_what_does_not_run_is_left_alone() -> None:
    cluster = Cluster()
    gang = {"gpu1": (Member("h", "head", False),), "gpu2": (Member("w", "worker", True), Member("x", "worker", False))}
    cluster.stop(gang)
    assert cluster.order == STOPPED[:2]


@pytest.mark.parametrize(
    ("refuses", "order", "failed"),
    [
        ({"gpu1": {"signal"}}, ["write h", "signal h", *STOPPED], {"gpu1"}),
        ({"gpu1": {"write"}}, ["write h", *STOPPED], {"gpu1"}),
        ({"gpu2": {"stop"}}, ["write h", "signal h", *STOPPED], {"gpu2"}),
        (
            {"gpu1": {"stop"}, "gpu2": {"stop"}},
            ["write h", "signal h", *STOPPED],
            {"gpu1", "gpu2"},
        ),
    ],
)
def test_what_fails_on_one_node_is_named_and_stops_nothing_else(
    refuses: Mapping[str, set[str]], order: list[str], failed: set[str]
) -> None:
    cluster = Cluster(refuses=refuses)
    assert set(cluster.stop()) == failed
    assert cluster.order == order


def test_a_head_that_is_read_from_the_container_not_from_the_inventory() -> None:
    calls: list[tuple[str, ...]] = []
    engines = [
        Engine("gpu1", calls),
        Engine("gpu2", calls, logs_of={"h": [DRAINED]}, agents={"h": {"phase": "serving"}}),
    ]
    gang = {"gpu1": (Member("w", "worker", True),), "gpu2": (Member("h", "head", True),)}
    shut_down(run_of(hosts_of(engines)), gang, drain_s=1)
    assert [(node, call) for node, call, *_ in calls] == [
        ("gpu2", "write"), ("gpu2", "signal"),
        ("gpu1", "policy"), ("gpu1", "stop"), ("gpu2", "policy"), ("gpu2", "stop"),
    ]  # fmt: skip


def test_a_restart_without_a_time_leaves_it_to_the_agents_settings() -> None:
    cluster = Cluster()
    ask_agent(cluster.hosts.head, "h", "restart", by="me@here")
    assert json.loads(cluster.calls[0][-1]) == {"action": "restart", "by": "me@here"}
    assert cluster.order == ["write h", "signal h"]


# What is changed in containers that go on


def planned(changes: Mapping[str, Any]) -> Plan:
    made = specs()
    there = {
        "gpu1": (container(made["gpu1"], state={"phase": "serving"}),),
        "gpu2": (container(made["gpu2"], state={"phase": "ray"}),),
    }
    return make_plan(deployment(changes), with_containers(cluster_facts(), there))


def written(calls: list[tuple[str, ...]], node: str) -> dict[str, str]:
    return {call[3]: call[4] for call in calls if call[:2] == (node, "write")}


def test_settings_are_replaced_everywhere_and_nobody_is_told_to_restart() -> None:
    cluster = Cluster()
    plan = planned({"timeouts": {"hang_s": 600}})
    update(run_of(cluster.hosts), plan, KEYS)
    assert not [call for call in cluster.calls if call[1] == "signal"]
    for node in plan.steps:
        files = written(cluster.calls, node.node)
        assert json.loads(files[paths.SETTINGS_PATH])["hang_s"] == 600
        assert json.loads(files[paths.SPEC_PATH]) == node.spec.values(), "the next plan compares with the new record"
        assert paths.API_KEY_PATH not in files
    assert paths.SERVER_PATH not in written(cluster.calls, "gpu2")


def test_new_options_are_written_before_the_new_server_is_asked_for_and_can_be_put_back() -> None:
    cluster = Cluster()
    plan = planned({"serve": {"options": {"seed": 1}}})
    replaced = update(run_of(cluster.hosts), plan, KEYS)
    assert written(cluster.calls, "gpu1")[paths.API_KEY_PATH] == "new"
    assert "seed: 1" in written(cluster.calls, "gpu1")[paths.SERVER_CONFIG_PATH]
    order = [call[3] if call[1] == "write" else call[1] for call in cluster.calls]
    assert order[-2:] == ["signal", paths.SPEC_PATH], "cut off before the signal, the next plan must still differ"
    assert json.loads(written(cluster.calls, "gpu1")[paths.SPEC_PATH]) == plan.steps[0].spec.values()
    assert written(cluster.calls, "gpu2") == {}
    cluster.calls.clear()
    put_back(run_of(cluster.hosts), replaced, b"old")
    files = written(cluster.calls, "gpu1")
    assert files[paths.API_KEY_PATH] == "old"
    assert "seed" not in files[paths.SERVER_CONFIG_PATH]
    assert json.loads(files[paths.SPEC_PATH]) == specs()["gpu1"].values()
    assert cluster.calls[-1] == ("gpu1", "signal", "c0ffee", "SIGUSR1")


@pytest.mark.parametrize("refuses", [{"gpu1": {"signal"}}, {"gpu2": {"write"}}], ids=["signal", "another node"])
def test_new_options_that_the_server_was_not_asked_to_take_are_put_back(refuses: dict[str, set[str]]) -> None:
    cluster = Cluster(refuses=refuses)
    plan = planned({"serve": {"options": {"seed": 1}}, "timeouts": {"hang_s": 600}})
    with pytest.raises(NodesError):
        update(run_of(cluster.hosts), plan, KEYS)
    files = written(cluster.calls, "gpu1")
    assert files[paths.API_KEY_PATH] == "old"
    assert "seed" not in files[paths.SERVER_CONFIG_PATH]
    assert json.loads(files[paths.SETTINGS_PATH])["hang_s"] == 120
    assert json.loads(files[paths.SPEC_PATH]) == specs()["gpu1"].values()


def test_adopting_tells_agent_and_engine_on_every_node() -> None:
    cluster = Cluster()
    adopt(run_of(cluster.hosts), {"gpu1": "h", "gpu2": "w"}, "always")
    assert sorted(cluster.calls) == [
        ("gpu1", "policy", "h", "always"),
        ("gpu1", "write", "h", paths.ADOPTED_PATH, ""),
        ("gpu2", "policy", "w", "always"),
        ("gpu2", "write", "w", paths.ADOPTED_PATH, ""),
    ]
