"""What the nodes have written down, put together: every run once, in order, and nothing that a bad line can break."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clusterctl.facts.fact import Unknown
from clusterctl.hosts.host import Host
from clusterctl.lock.history import (
    History,
    NodeHistory,
    Restart,
    Run,
    duration,
    history,
    last_starts,
    parse,
    restarts_in,
)
from clusterctl.ui.history import text
from clusterctl.ui.render import took

BEGIN = {"event": "begin", "run": "r1", "who": "alice@laptop", "command": "up", "version": "0.1.0"}


def node(*records: dict[str, Any], restarts: Any = (), bad: str = "") -> NodeHistory:
    parsed, bad_lines = parse("\n".join(json.dumps(record) for record in records) + f"\n{bad}")
    return NodeHistory(parsed, bad_lines, restarts)


def of(limit: int = 50, **nodes: NodeHistory) -> History:
    return history("demo", nodes, {}, limit=limit)


def only(found: History) -> Run:
    (entry,) = found.entries
    assert isinstance(entry, Run)
    return entry


def test_a_run_on_many_nodes_is_one() -> None:
    records: tuple[dict[str, Any], ...] = (
        {"t": 100, **BEGIN},
        {"t": 101, "event": "note", "run": "r1", "text": "serve.port 8000 -> 8001"},
        {"t": 160, "event": "end", "run": "r1", "outcome": "ok", "seconds": 60.2},
    )
    found = of(node1=node(*records), node2=node(*({**each, "t": each["t"] + 5} for each in records)))
    run = only(found)
    assert (run.t, run.who, run.command, run.outcome, run.seconds) == (100, "alice@laptop", "up", "ok", 60.2)
    assert [note.text for note in run.notes] == ["serve.port 8000 -> 8001"]
    assert run.nodes == ("node1", "node2")
    assert text(found) == "1970-01-01T00:01:40Z  alice@laptop  up  ok after 60 s\n    serve.port 8000 -> 8001"
    assert json.loads(json.dumps(found.to_json()))["runs"][0]["outcome"] == "ok"


STARTED = {"event": "start", "run": "r1", "timings_s": {"checks": 2.2, "loading": 64.8, "total": 74.3, "odd": "x"}}


def test_a_start_has_the_times_of_its_phases() -> None:
    found = of(node1=node({"t": 100, **BEGIN}, {"t": 174, **STARTED}))
    assert only(found).timings_s == {"checks": 2.2, "loading": 64.8, "total": 74.3}
    assert "    started: checks 2.2 s, loading 64.8 s, total 74.3 s" in text(found)
    assert only(of(node1=node({"t": 100, **BEGIN}, {"t": 174, **STARTED, "timings_s": 3}))).timings_s == {}
    assert only(of(node1=node({"t": 100, **BEGIN}))).timings_s is None


def test_the_last_starts_are_the_latest_three_that_are_known() -> None:
    begun = [{"t": t, **BEGIN, "run": f"r{t}"} for t in (3, 1, 2, 4, 9)]
    runs = [{"t": t, "event": "start", "run": f"r{t}", "timings_s": {"total": 100.0 - t}} for t in (3, 1, 2, 4)]
    records = "\n".join(map(json.dumps, [*begun, *runs])) + "\ndamaged"
    done = SimpleNamespace(exit_code=0, stdout=records.encode(), stderr=b"")
    host = SimpleNamespace(name="node1", connection=SimpleNamespace(run=lambda *_, **__: done))
    assert last_starts(cast(Host, host), "demo") == (98.0, 97.0, 96.0)
    unreadable = SimpleNamespace(run=lambda *_, **__: SimpleNamespace(exit_code=1, stdout=b"", stderr=b"no"))
    assert last_starts(cast(Host, SimpleNamespace(name="node1", connection=unreadable)), "demo") == ()


def test_the_time_of_a_start_stands_beside_the_ones_before() -> None:
    assert (
        took({"checks": 2.24, "total": 74.3}, (111.2, 74.9))
        == "checks 2.2 s, total 74.3 s (the 2 starts before: 111.2, 74.9 s)"
    )
    assert took({"total": 74.3}) == "total 74.3 s"


def test_a_run_that_was_cut_off_says_how() -> None:
    cut = {"t": 190, "event": "cut-off", "run": "r1", "reason": "silence"}
    found = of(node1=node({"t": 100, **BEGIN}, cut), node2=node({"t": 7000, **BEGIN}))
    assert (only(found).outcome, only(found).seconds) == ("cut off: silence", 90)
    assert text(found).endswith("up  cut off: silence after 90 s")


def test_an_end_with_one_node_cut_off_says_both() -> None:
    end = {"t": 160, "event": "end", "run": "r1", "outcome": "failed: the lock was lost", "seconds": 60}
    cut = {"t": 130, "event": "cut-off", "run": "r1", "reason": "eof"}
    found = of(node1=node({"t": 100, **BEGIN}, end), node2=node({"t": 100, **BEGIN}, cut))
    assert only(found).outcome == "failed: the lock was lost"
    assert text(found).splitlines()[1:] == ["    cut off on node2: eof"]


def test_a_run_without_an_end_goes_on_or_went_down_with_its_nodes() -> None:
    assert only(of(node1=node({"t": 100, **BEGIN}))).outcome is None
    assert text(of(node1=node({"t": 100, **BEGIN}))).endswith("up  not ended")


def test_an_end_whose_beginning_is_not_kept_any_more() -> None:
    found = of(node1=node({"t": 160, "event": "end", "run": "r1", "outcome": "ok", "seconds": 60}))
    assert text(found) == "(earlier)  ?  ?  ok after 60 s"


@pytest.mark.parametrize("bad", ["{", "[]", '{"t": 1}', '{"t": "x", "run": "r", "event": "end"}', '{"t": 1, "run": 2}'])
def test_lines_that_are_no_records_are_counted(bad: str) -> None:
    found = of(node1=node({"t": 100, **BEGIN}, bad=bad))
    assert (len(found.entries), found.bad_lines) == (1, {"node1": 1})
    assert "node1: 1 line(s) of its history are damaged" in text(found)


def test_records_with_odd_values_break_nothing() -> None:
    odd = {"t": 1e30, "event": "begin", "run": "r1", "who": ["\x1b[2J"], "command": {}, "version": None}
    end = {"t": 1, "event": "end", "run": "r1", "outcome": None, "seconds": "long"}
    found = of(node1=node(odd, end, {"t": 5, "event": "of the future", "run": "r2"}))
    assert "\x1b" not in text(found)
    assert len(found.entries) == 2


def test_restarts_stand_where_they_happened_and_the_last_ones_are_shown() -> None:
    said = {"restarts": [{"t": 150, "scope": "server", "reason": "stuck", "detail": "no completion"}, {"t": "?"}, 5]}
    restarts = restarts_in("node1", said)
    assert restarts == (Restart(150, "node1", "server", "stuck", "no completion"),)
    both = node({"t": 100, **BEGIN}, {"t": 200, **BEGIN, "run": "r2"}, restarts=restarts)
    assert [entry.at for entry in of(node1=both).entries] == [100, 150, 200]
    assert [entry.at for entry in of(limit=2, node1=both).entries] == [150, 200]
    assert "1970-01-01T00:02:30Z  node1  restarted the server  stuck: no completion" in text(of(node1=both))


def test_no_container_and_an_old_agent_have_no_restarts() -> None:
    assert restarts_in("node1", None) == ()
    assert restarts_in("node1", {"phase": "ready"}) == ()
    found = of(node1=node(restarts=restarts_in("node1", Unknown("no engine"))))
    assert found.no_restarts == {"node1": "no engine"}
    assert "these nodes have no record of a run of clusterctl that changed cluster demo" in text(found)


@pytest.mark.parametrize(
    ("seconds", "said"), [(-3, "0 s"), (12, "12 s"), (119, "119 s"), (185, "3 min"), (7300, "2 h"), (400000, "5 d")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
