"""Following a start: what ends it, what does not, and what is said; logs are played by stand-ins."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from clusterctl.actions.follow import Followed, Start, StartFailedError, follow
from clusterctl.agent.reasons import FAILURES, MEANINGS, RETURNS
from clusterctl.hosts.engine.engine import Container
from clusterctl.progress import SILENT, Progress
from tests.unit.stand_ins import Engine, Lock, Script, event, hosts_of, look, phase, run_of, said

UP: Script = (phase("ray", server=0), event("nodes", joined=["a", "b"], expected=2), phase("gate"), phase("loading"))
Looks = list[Container]
RUNS: Looks = [look(running=True)]
ENDED: Looks = [look(running=False, exit_code=1)]
AGAIN: Looks = [look(running=True, restarting=True), *RUNS]

pytestmark = pytest.mark.timeout(60)


class Followers:
    """Plays logs on the head `h` (gpu1) and the worker `w` (gpu2)."""

    def __init__(self) -> None:
        self.engines: list[Engine] = []

    def __call__(
        self,
        head: list[Script],
        worker: list[Script] | None = None,
        *,
        states: Mapping[str, Looks] | None = None,
        progress: Progress = SILENT,
        limits: Mapping[str, float] | None = None,
        since: float = 0,
        lock: Lock | None = None,
        **options: Any,
    ) -> Start:
        known: dict[str, Looks] = {"h": RUNS, "w": RUNS, **(states or {})}
        logs = {"h": list(head), "w": list(worker or [])}
        self.engines = [
            Engine(node, [], logs_of={id: logs[id]}, states={id: list(known[id])})
            for node, id in (("gpu1", "h"), ("gpu2", "w"))
        ]
        run = run_of(hosts_of(self.engines), {"timeouts": dict(limits or {})}, progress=progress, lock=lock)
        containers = {"gpu1": Followed("h", since), "gpu2": Followed("w", since)}
        return follow(run, containers, **options)


@pytest.fixture
def play() -> Iterator[Followers]:
    followers = Followers()
    yield followers
    for engine in followers.engines:
        engine.released.set()


class Said:
    """Progress that is remembered."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.details: list[str] = []

    def phase(self, text: str) -> None:
        self.phases.append(text)

    def detail(self, text: str) -> None:
        self.details.append(text)


def test_it_ends_when_the_head_serves_and_has_timed_the_way_there(play: Followers) -> None:
    progress = Said()
    start = play([[*UP, said("GPU KV cache size: 4,096 tokens\n"), phase("serving")]], progress=progress)
    assert start.phase == "serving"
    assert list(start.timings) == ["containers", "ray", "loading"]
    assert progress.phases == ["forming the Ray cluster", "starting vLLM"]
    assert "2/2 nodes in Ray" in progress.details
    assert start.kept == ["GPU KV cache size: 4,096 tokens"]


def test_a_worker_that_serves_is_no_cluster_that_serves(play: Followers) -> None:
    with pytest.raises(StartFailedError, match="exit code 1"):
        play([[*UP]], [[phase("serving")]], states={"h": ENDED})


def test_a_line_of_the_server_that_looks_like_an_event_is_none(play: Followers) -> None:
    forged = phase("serving").data.decode()
    with pytest.raises(StartFailedError):
        play([[*UP, said(forged)]], states={"h": ENDED})


@pytest.mark.parametrize("node", ["gpu1", "gpu2"])
@pytest.mark.parametrize("patient", [False, True])
def test_a_failure_for_good_ends_it_at_once(play: Followers, node: str, patient: bool) -> None:
    failed = phase("failed", reason="ray-exited", detail="`ray start` ended with exit code 1", tail=["RuntimeError: x"])
    scripts: dict[str, list[Script]] = {"gpu1": [], "gpu2": []}
    scripts[node] = [[*UP, failed]]
    with pytest.raises(StartFailedError) as caught:
        play(scripts["gpu1"], scripts["gpu2"], patient=patient)
    assert caught.value.node == node
    assert f"ended with exit code 1: {FAILURES['ray-exited']}" in caught.value.message


@pytest.mark.parametrize("reason", sorted(set(MEANINGS) - {"requested"}))
def test_a_new_server_that_fails_once_has_failed_and_is_explained(play: Followers, reason: str) -> None:
    again = event("restart", scope="server", reason=reason, detail="what was seen")
    with pytest.raises(StartFailedError) as caught:
        play([[*UP, again, phase("serving", server=2)]])
    assert f"what was seen: {MEANINGS[reason]} (phase: loading)" in caught.value.message


@pytest.mark.parametrize("reason", ["requested", "head-lost"])
def test_a_follower_that_stands_down_is_no_failure_of_its_own(play: Followers, reason: str) -> None:
    stood_down = event("restart", scope="server", reason=reason, detail="by the head", server=1)
    with pytest.raises(StartFailedError) as caught:
        play(
            [[*UP, lambda: time.sleep(0.3), phase("failed", reason="server-exited", detail="x")]],
            [[stood_down, lambda: time.sleep(1)]],
        )
    assert caught.value.node == "gpu1"


def test_the_lines_of_the_node_whose_rank_ended_are_shown(play: Followers) -> None:
    ended = phase("failed", reason="rank-exited", detail="gpu2: its rank ended with exit code 0", node="gpu2")
    head: Script = [*UP, lambda: time.sleep(0.3), ended]
    with pytest.raises(StartFailedError) as caught:
        play([head], [[said("ValueError: no such device\n"), lambda: time.sleep(1)]])
    assert "gpu2: its rank ended" in caught.value.message
    assert "no such device" in caught.value.message


def test_a_cluster_that_heals_is_given_the_time_to(play: Followers) -> None:
    progress = Said()
    again = event("restart", scope="server", reason="server-exited", detail="it died")
    start = play([[*UP, again, phase("gate", server=2), phase("serving", server=2)]], patient=True, progress=progress)
    assert start.phase == "serving"
    assert "gpu1 starts again: it died" in progress.details


def test_a_restart_that_was_asked_for_is_no_failure(play: Followers) -> None:
    progress = Said()
    asked = event("restart", scope="server", reason="requested", detail="by me@here", server=1)
    log = [phase("serving"), phase("draining"), asked, phase("gate", server=2), phase("loading", server=2)]
    start = play([[*log, phase("serving", server=2)]], after=1, progress=progress)
    assert start.phase == "serving"
    assert progress.phases == ["stopping the server", "starting vLLM"]


@pytest.mark.parametrize("chatters", [False, True])
def test_a_node_that_is_cut_off_ends_it_long_before_the_deadline(
    play: Followers, chatters: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log stays open and says nothing; the other node's may go on."""
    monkeypatch.setattr("clusterctl.actions.follow.LOOK_S", 0.2)
    worker: list[Script] = (
        [[part for _ in range(20) for part in (said("x\n"), lambda: time.sleep(0.05))]] if chatters else []
    )
    began = time.monotonic()
    with pytest.raises(StartFailedError, match="gpu1: the node was lost while it was waited for: no sign of life"):
        play([], worker, lock=Lock(lambda: {"gpu1": "no sign of life for 31 s"}))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("patient", [False, True])
def test_a_server_that_somebody_ends_for_good_is_not_waited_for(play: Followers, patient: bool) -> None:
    log = [*UP, phase("draining", by="me@here", action="drain"), phase("drained", by="me@here")]
    with pytest.raises(StartFailedError, match="ended on request of me@here"):
        play([log], patient=patient)


def test_the_server_before_counts_for_nothing(play: Followers) -> None:
    """It serves still, and it may fail on its way out; what was asked for is the one after it."""
    old = [phase("serving"), event("restart", scope="server", reason="server-exited", detail="the old one")]
    start = play([[*old, phase("loading", server=2), phase("serving", server=2)]], after=1)
    assert start.phase == "serving"
    with pytest.raises(StartFailedError):
        play([[phase("serving")]], after=1, states={"h": ENDED})


def test_a_container_that_the_engine_starts_again_is_followed_into_its_next_life(play: Followers) -> None:
    begun_anew = event("restart", scope="gang", reason="ray-exited", detail="Ray died", server=1)
    lives: list[Script] = [[*UP, begun_anew, phase("restarting")], [phase("ray"), phase("serving", server=2)]]
    assert play(lives, states={"h": AGAIN}, patient=True).phase == "serving"
    assert play.engines[0].since[:2] == [0, 100.0], "from its new start on"


@pytest.mark.parametrize(
    ("states", "what"),
    [
        (ENDED, "its container ended with exit code 1"),
        ([look(running=False, exit_code=137, oom_killed=True)], "exit code 137 (killed: out of memory)"),
        (RUNS, "while it runs"),
        ([], "its container was removed"),
    ],
)
@pytest.mark.parametrize("node", ["gpu1", "gpu2"])
def test_a_log_that_ends_says_what_became_of_the_container(
    play: Followers, states: Looks, what: str, node: str
) -> None:
    container = "h" if node == "gpu1" else "w"
    ends: list[Script] = [[said("Traceback\nRuntimeError: last words")]]
    logs: list[list[Script]] = [ends, []] if node == "gpu1" else [[], ends]
    with pytest.raises(StartFailedError) as caught:
        play(*logs, states={container: states})
    assert caught.value.node == node
    assert what in caught.value.message
    assert "RuntimeError: last words" in caught.value.message, "the last line, though it never ended"


def test_patience_ends_with_a_container_that_nobody_starts_again(play: Followers) -> None:
    with pytest.raises(StartFailedError, match="exit code 1"):
        play([[*UP]], states={"h": ENDED}, patient=True)


@pytest.mark.parametrize(("patient", "what"), [(False, "the agent reported nothing"), (True, "no completion until")])
def test_an_agent_that_says_nothing_is_given_up_at_the_deadline(
    play: Followers, monkeypatch: pytest.MonkeyPatch, patient: bool, what: str
) -> None:
    monkeypatch.setattr("clusterctl.actions.follow.GRACE_S", 0.1)
    limits = {"ray_s": 0.1, "load_s": 0.1, "drain_s": 0, "stop_s": 0.1}
    began = time.monotonic()
    with pytest.raises(StartFailedError, match=what):
        play([], limits=limits, patient=patient)
    assert time.monotonic() - began < 20


def test_every_reason_has_one_meaning() -> None:
    assert not set(FAILURES) & set(RETURNS)
    assert set(MEANINGS) == set(FAILURES) | set(RETURNS)
