"""What `up` does when something comes between: what is undone, what is left, and what the error says."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import pytest

from clusterctl.actions import completion, undo
from clusterctl.actions.follow import Start, StartFailedError
from clusterctl.actions.prepare import Prepared
from clusterctl.agent.paths import container_name
from clusterctl.apply.undo import NewContainer
from clusterctl.errors import ClusterctlError
from clusterctl.facts.api_key import ApiKeys
from clusterctl.facts.fact import Unknown
from clusterctl.hosts.host import Hosts
from clusterctl.lock.run import Run
from clusterctl.planning.plan import make_plan
from clusterctl.status.server import Completion
from tests.unit.stand_ins import Engine, Lock, hosts_of, run_of
from tests.unit.support import cluster_facts, deployment, specs, with_containers

SERVES = {"phase": "serving", "canary": {"t": 10.0}}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time-outs of the completions that were asked for; none comes back."""
    seen: list[float] = []

    def complete(client: object, model: str, *, timeout_s: float, engine: int | None) -> Unknown:
        seen.append(timeout_s)
        return Unknown("timed out")

    monkeypatch.setattr(completion, "api_client", lambda *_: nullcontext())
    monkeypatch.setattr(completion, "complete", complete)
    return seen


def hosts_with(states: list[Mapping[str, Any]]) -> Hosts:
    """The head's agent says one state after the other; the last one stays."""

    class Agent(Engine):
        def read_file(self, container: str, path: str) -> bytes | None:
            self.agents = {container: states.pop(0) if len(states) > 1 else states[0]}
            return super().read_file(container, path)

    return hosts_of([Agent("gpu1", []), Engine("gpu2", [])])


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({"phase": "serving", "canary": {"t": 40.0}}, completion.LateCompletionError),
        (SERVES, StartFailedError),
        ({"phase": "gate", "canary": {"t": 40.0}}, StartFailedError),
        ({}, StartFailedError),
    ],
    ids=["it serves others", "it hangs", "it starts again", "nobody says"],
)
def test_a_completion_that_is_late_is_a_failure_only_when_nobody_gets_one(
    asked: list[float], after: Mapping[str, Any], expected: type[ClusterctlError]
) -> None:
    hosts = hosts_with([SERVES, after])
    with pytest.raises(ClusterctlError) as caught:
        completion.first_completion(run_of(hosts), deployment(), Start(phase="serving"))
    assert type(caught.value) is expected
    assert caught.value.full_message().startswith("gpu1: no completion came back")
    assert asked == [completion.FIRST_COMPLETION_S]


def test_a_completion_is_a_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    came = Completion(1, 0.1)
    monkeypatch.setattr(completion, "api_client", lambda *_: nullcontext())
    monkeypatch.setattr(completion, "complete", lambda *_, **__: came)
    assert completion.first_completion(run_of(hosts_with([SERVES])), deployment(), Start()) is came


def test_each_engine_is_asked_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int | None] = []

    def complete(client: object, model: str, *, timeout_s: float, engine: int | None) -> Completion | Unknown:
        seen.append(engine)
        return Completion(1, 0.1) if engine == 0 else Unknown("timed out")

    monkeypatch.setattr(completion, "api_client", lambda *_: nullcontext())
    monkeypatch.setattr(completion, "complete", complete)
    two = deployment({"serve": {"data_parallel": 2, "executor": "mp"}})
    with pytest.raises(StartFailedError, match="no completion came back from engine 1"):
        completion.first_completion(run_of(hosts_with([SERVES, {}])), two, Start(phase="serving"))
    assert seen == [0, 1]


@pytest.mark.parametrize(
    ("head", "worker", "says"),
    [
        ("serving", "ray", None),
        ("serving", "stopping", r"gpu2 \(its agent says: stopping\)"),
        ("loading", "ray", r"gpu1 \(its agent says: loading\)"),
        ("serving", None, r"gpu2 \(its agent cannot be read any more\)"),
    ],
)
def test_what_ended_since_the_completion_is_no_success(head: str, worker: str | None, says: str | None) -> None:
    made, engines = deployment(), [Engine("gpu1", []), Engine("gpu2", [])]
    for engine, phase in zip(engines, (head, worker), strict=True):
        engine.agents = {container_name(made.inventory.cluster): {"phase": phase}}
    run = run_of(hosts_of(engines))
    if says is None:
        completion.ensure_still_there(run, made)
    else:
        with pytest.raises(completion.EndedMeanwhileError, match=says):
            completion.ensure_still_there(run, made)


@pytest.mark.parametrize(
    ("lost", "keep", "removed", "says"),
    [
        ({}, False, {"gpu1": "h", "gpu2": "w"}, ["bundle.tar.gz", "what this run started was removed", "a new one"]),
        ({"gpu1": "silence"}, False, {"gpu2": "w"}, ["bundle.tar.gz", "was left on gpu1, since its lock was lost"]),
        ({}, True, None, ["left as it is (--keep)", "clusterctl diagnose"]),
    ],
    ids=["all removed", "not where others may be", "kept"],
)
def test_what_a_failed_start_leaves(
    lost: Mapping[str, str],
    keep: bool,
    removed: Mapping[str, str] | None,
    says: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[Mapping[str, str]] = []
    monkeypatch.setattr(undo, "collect_after_failure", lambda *_: "bundle.tar.gz")

    def remove(_: Run, containers: Mapping[str, str]) -> Mapping[str, ClusterctlError]:
        done.append(containers)
        return {}

    monkeypatch.setattr(undo, "remove", remove)
    facts = with_containers(cluster_facts(), {})
    prepared = Prepared(
        facts,
        (),
        deployment(),
        make_plan(deployment(), facts),
        ApiKeys(b"old", b"old", generated=True),
    )
    error = ClusterctlError("it failed", hint="first")
    started = {"gpu1": "h", "gpu2": "w"}
    assert list(specs()) == list(started)
    run = run_of(hosts_with([{}]), lock=Lock(lambda: lost))
    with pytest.raises(ClusterctlError) as caught, undo.undone_on_failure(run, prepared, keep=keep) as done_so_far:
        done_so_far += [NewContainer(name, container) for name, container in started.items()]
        raise error
    assert caught.value is error
    assert done == ([] if removed is None else [removed])
    assert error.hint is not None
    assert error.hint.startswith("first")
    assert [words for words in says if words not in error.hint] == []
