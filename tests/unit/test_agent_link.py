"""Several agents of a gang without Ray, as processes on one machine: how they come together, and what takes them down.

What serves is a stand-in (fixtures/agent); the agents and the link between them are real.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clusterctl.agent.inside.link import proof
from tests.unit.test_agent import ALONE, Run, ask, cut_power, free_port, is_gone, restarts

pytestmark = pytest.mark.timeout(90)

TOKEN = "a token that nobody guesses"
SILENCE_S = 3.0
QUICK = {"LINK_SILENCE_S": 10.0, "BEAT_S": 0.2, "RETRY_S": 0.2, "HELLO_S": 0.5}
SERVER = {"name": "server", "program": "server", "gated": True, "alone": True, "stop_s": None, "after": None}
LINK = {"kind": "link", "process": "server"}


def lives(reason: str) -> dict[str, str]:
    return {"kind": "process", "process": "server", "reason": reason}


Greeting = Callable[[str], bytes]
"""The head's challenge -> what is said to it."""


class Gang:
    """The agents of node1, the head, and of the followers, which a test starts when it likes."""

    def __init__(self, folder: Path, followers: tuple[str, ...], *, adopted: bool) -> None:
        self.folder = folder
        self.adopted = adopted
        self.port = free_port()
        self.token = folder / "token"
        self.token.write_text(f"{TOKEN}\n", encoding="ascii")
        self.expected = {name: f"127.0.0.{name.removeprefix('node')}" for name in followers}
        self.where = {"address": "127.0.0.1", "port": self.port, "token_file": str(self.token)}
        self.runs: list[Run] = []
        self.of: dict[str, Run] = {}

    def start(self, name: str, mode: str | None = None, **options: Any) -> Run:
        """An agent; of a name that was there before, its container's next life."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        follows = name in self.expected
        gate = {"kind": "member", "name": name} if follows else {"kind": "members", "expected": self.expected}
        completion = {"kind": "completion", "process": "server", "engine": 0, "engines": 1}
        watches = [lives("rank-exited"), LINK] if follows else [lives("server-exited"), completion, LINK]
        said = {
            "node": name,
            "role": "worker" if follows else "head",
            "processes": [SERVER],
            "gate": {**gate, **self.where},
            "watches": watches,
            "stop": ["server"],
            "constants": QUICK,
            "adopted": self.adopted,
        }
        self.of[name] = Run(folder, mode or ("rank-deaf" if follows else "ok"), **{**said, **options})
        self.runs.append(self.of[name])
        return self.of[name]

    def start_all(self, **options: Any) -> list[Run]:
        """Everybody; the followers first, so that they must wait for their head."""
        followers = [self.start(name, **options) for name in self.expected]
        return [self.start("node1", **options), *followers]

    def greet(self, *lines: bytes | Greeting, wait_s: float = 10) -> bytes:
        """What a stranger hears after the challenge that says these lines, until it is hung up on."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait_s) as stranger:
            file = stranger.makefile("rb")
            challenge = json.loads(file.readline())["challenge"]
            for line in lines:
                stranger.sendall(line if isinstance(line, bytes) else line(challenge))
            heard = b""
            with contextlib.suppress(ConnectionResetError):
                while chunk := file.read1(4096):
                    heard += chunk
            return heard


NewGang = Callable[..., Gang]


@pytest.fixture
def gang(tmp_path: Path) -> Iterator[NewGang]:
    made: list[Gang] = []

    def new(*followers: str, adopted: bool = True) -> Gang:
        made.append(Gang(tmp_path, followers or ("node2",), adopted=adopted))
        return made[-1]

    yield new
    for run in (run for each in made for run in each.runs):
        with contextlib.suppress(ProcessLookupError):
            run.process.send_signal(signal.SIGCONT)
        run.process.terminate()
    for run in (run for each in made for run in each.runs):
        try:
            run.process.wait(20)
        finally:
            run.process.kill()


def rank_of(run: Run) -> str:
    """Process id of the node's rank."""
    file = run.fake / "server.pid"
    run.until(lambda: file.exists() and file.read_text(encoding="ascii"), "a rank")  # it may be made, and not written
    return file.read_text(encoding="ascii")


def served(run: Run, times: int) -> None:
    run.until(lambda: run.phases().count("serving") >= times, f"service, for the {times}. time")


def waits_for(run: Run) -> str:
    """What its gate waits for; its state is written first when it enters a phase."""
    return str(run.state.get("waiting_for") or "") if run.phases() else ""


def refusals(run: Run) -> list[str]:
    return [event["why"] for event in run.events if event["event"] == "link-refused"]


def hello(name: str, token: str = TOKEN) -> Greeting:
    """A right greeting, if the token is."""

    def answer(challenge: str) -> bytes:
        shown = proof(token, "node", name, challenge, "a nonce")
        return json.dumps({"hello": name, "nonce": "a nonce", "proof": shown}).encode() + b"\n"

    return answer


# Coming together


def test_a_gang_forms_of_exactly_the_declared_nodes_and_ends_on_sigterm(gang: NewGang) -> None:
    one = gang("node2", "node3", adopted=False)
    node2 = one.start("node2")
    node2.until(lambda: "is not on 127.0.0.1" in waits_for(node2), "a look for the head")
    head = one.start("node1")
    head.until(lambda: "missing: node3" in waits_for(head), "a closed gate")
    assert head.state["waiting_for"] == "only 2 of 3 nodes are on the link; missing: node3"
    node2.until(lambda: not waits_for(node2), "the link")
    assert one.greet(hello("node9")) == b""
    time.sleep(0.3)
    assert head.phases() == ["gate"]
    assert node2.phases() == ["standby"]
    node3 = one.start("node3")
    served(head, 1)
    assert refusals(head) == ["node9 is no node of this cluster"]
    assert head.phases() == ["gate", "loading", "serving"]
    counts = [event["joined"] for event in head.events if event["event"] == "nodes"]
    assert counts[-1] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    assert head.state["nodes"] == {"127.0.0.1": 1, "127.0.0.2": 1, "127.0.0.3": 1}
    for follower in (node2, node3):
        follower.until_phase("running")
        assert follower.phases() == ["standby", "loading", "running"]
        assert (follower.state["generation"], head.state["generation"]) == (1, 1)
        assert follower.state["ready"] is False
    ranks = [rank_of(node2), rank_of(node3)]
    head.process.terminate()
    assert head.end() == 0
    assert head.order == ["server stopped"]
    for follower, rank in zip((node2, node3), ranks, strict=True):
        follower.until(lambda rank=rank: is_gone(rank), "the end of the rank")  # type: ignore[misc]
        follower.until(lambda follower=follower: follower.phases()[-1] == "standby", "standby")  # type: ignore[misc]
        assert restarts(follower) == [("server", "requested")]
        follower.process.terminate()
        assert follower.end() == 0
        assert follower.phases()[-2:] == ["stopping", "stopped"]


def test_a_follower_that_does_not_come_is_named_and_final_before_adoption(gang: NewGang) -> None:
    one = gang("node2", "node3", adopted=False)
    one.start("node2")
    failed = one.start("node1", ray_timeout_s=3).failure()
    assert (failed["reason"], failed["missing"]) == ("members-missing", ["node3"])
    assert failed["detail"] == "after 3 s only 2 of 3 nodes are on the link; missing: node3"


def test_missing_followers_take_one_new_gang_and_then_patience(gang: NewGang) -> None:
    one = gang()
    head = one.start("node1", ray_timeout_s=1)
    assert head.end() == 1
    assert restarts(head) == [("gang", "members-missing")]
    head = one.start("node1", ray_timeout_s=1)
    head.until_phase("gate")
    time.sleep(2)
    assert head.process.poll() is None
    assert head.state["failures"] == 0
    one.start("node2")
    served(head, 1)


def test_a_port_that_is_taken_is_named(gang: NewGang) -> None:
    one = gang(adopted=False)
    with socket.create_server(("127.0.0.1", one.port)):
        failed = one.start("node1").failure()
    assert failed["reason"] == "link-port"
    assert failed["detail"] == f"cannot listen on 127.0.0.1:{one.port}: Address already in use"


# What takes the gang down, and back up


def test_a_rank_that_ends_with_0_takes_the_gang_and_a_new_generation_serves(gang: NewGang) -> None:
    one = gang("node2", "node3")
    head, node2, node3 = one.start_all()
    served(head, 1)
    before = rank_of(node3)
    (node2.fake / "rank-exits").write_text("0", encoding="ascii")
    served(head, 2)
    assert restarts(head) == [("server", "rank-exited")]
    assert head.state["restarts"][0]["detail"] == "node2: its rank ended with exit code 0"
    assert restarts(node2) == [("server", "rank-exited")]
    assert restarts(node3) == [("server", "requested")]
    assert node3.state["failures"] == 0
    assert is_gone(before)
    assert {run.state["generation"] for run in (head, node2, node3)} == {2}


def test_a_rank_that_ends_is_final_before_adoption(gang: NewGang) -> None:
    head, node2 = (one := gang(adopted=False)).start_all()
    served(head, 1)
    (node2.fake / "rank-exits").write_text("0", encoding="ascii")
    failed = head.failure()
    assert (failed["reason"], failed["node"], failed["exit_code"]) == ("rank-exited", "node2", 0)
    assert "RuntimeError: the rank's worker died" in failed["tail"]
    own = node2.failure()
    assert (own["reason"], own["exit_code"]) == ("rank-exited", 0)
    assert one.of == {"node1": head, "node2": node2}


def test_a_rank_that_dies_while_it_stands_by_does_not_count_as_there(gang: NewGang) -> None:
    one = gang("node2", "node3")
    node2 = one.start("node2")
    head = one.start("node1")
    head.until(lambda: "missing: node3" in waits_for(head), "a closed gate")
    children = Path("/proc", str(node2.process.pid), "task", str(node2.process.pid), "children")
    os.kill(int(children.read_text(encoding="ascii").split()[0]), signal.SIGKILL)
    node2.until(lambda: node2.phases().count("standby") == 2, "another rank that stands by")
    one.start("node3")
    served(head, 1)
    assert restarts(head) == []


def test_a_followers_container_that_is_killed_is_waited_for(gang: NewGang) -> None:
    one = gang()
    head, node2 = one.start_all()
    served(head, 1)
    cut_power(node2)
    head.until(lambda: waits_for(head), "a closed gate")
    assert restarts(head) == [("server", "member-lost")]
    assert head.state["restarts"][0]["detail"] == "node2: the link was closed"
    assert head.state["waiting_for"] == "only 1 of 2 nodes are on the link; missing: node2"
    node2 = one.start("node2")
    served(head, 2)
    assert restarts(node2) == [("container", "container-ended")]


def test_a_follower_that_falls_silent_is_noticed_and_comes_back(gang: NewGang) -> None:
    head, node2 = gang().start_all(constants={**QUICK, "LINK_SILENCE_S": SILENCE_S})
    served(head, 1)
    before = rank_of(node2)
    began = time.monotonic()
    node2.process.send_signal(signal.SIGSTOP)
    head.until(lambda: restarts(head), "a lost follower")
    assert time.monotonic() - began < SILENCE_S + 5
    assert restarts(head) == [("server", "member-lost")]
    assert head.state["restarts"][0]["detail"] == "node2: no sign of life on the link for 3 s"
    node2.process.send_signal(signal.SIGCONT)
    served(head, 2)
    assert restarts(node2) == [("server", "head-lost")]
    assert is_gone(before)


def test_a_follower_never_outlives_its_head_and_joins_the_next_one(gang: NewGang) -> None:
    one = gang(adopted=False)
    head, node2 = one.start_all()
    served(head, 1)
    before = rank_of(node2)
    cut_power(head)
    node2.until(lambda: is_gone(before), "the end of the rank")
    node2.until(lambda: node2.phases()[-1] == "standby", "standby")
    node2.until(lambda: restarts(node2) == [("server", "head-lost")], "a record of it")
    assert node2.state["failures"] == 0
    node2.until(lambda: waits_for(node2), "a word about what it waits for")
    served(one.start("node1"), 1)
    assert node2.state["waiting_for"] is None


def test_a_head_that_falls_silent_is_left(gang: NewGang) -> None:
    head, node2 = gang().start_all(constants={**QUICK, "LINK_SILENCE_S": SILENCE_S})
    served(head, 1)
    before = rank_of(node2)
    head.process.send_signal(signal.SIGSTOP)
    node2.until(lambda: is_gone(before), "the end of the rank")
    node2.until(lambda: restarts(node2) == [("server", "head-lost")], "a record of it")
    head.process.send_signal(signal.SIGCONT)
    served(head, 2)
    assert restarts(head) == [("server", "member-lost")]


def test_the_heads_own_server_takes_the_followers_along(gang: NewGang) -> None:
    one = gang()
    node2, head = one.start("node2"), one.start("node1", "dies-later")
    served(head, 1)
    (head.fake / "mode").write_text("ok", encoding="ascii")
    served(head, 2)
    assert restarts(head) == [("server", "server-exited")]
    assert restarts(node2) == [("server", "requested")]


def test_drain_and_restart_on_request_take_the_followers_along(gang: NewGang) -> None:
    head, node2 = gang(adopted=False).start_all()
    served(head, 1)
    ask(head, action="restart", by="alice@laptop")
    served(head, 2)
    assert restarts(head) == [("server", "requested")]
    assert restarts(node2) == [("server", "requested")]
    ask(head, action="drain", by="alice@laptop", drain_s=3)
    head.until_phase("drained")
    node2.until(lambda: node2.phases()[-1] == "standby", "standby")
    time.sleep(0.3)
    assert node2.process.poll() is None, "that was no failure"
    ask(head, action="restart", by="alice@laptop")
    served(head, 3)
    assert head.order == ["server stopped", "server stopped"]


def noted_a_hang(run: Run) -> bool:
    return any(event["event"] == "hang" for event in run.events)


def test_every_node_looks_at_its_own_processes_when_the_server_hangs(gang: NewGang) -> None:
    one = gang("node2")
    node2 = one.start("node2")
    head = one.start("node1", "hangs-later", hang_s=1, constants={**QUICK, "HANG_LOOK_S": 0.2})
    served(head, 1)
    for run in (head, node2):
        run.until(partial(noted_a_hang, run), "word of the hang")
    head.until(lambda: ("server", "server-hangs") in restarts(head), "a restart")
    node2.until(lambda: ("server", "requested") in restarts(node2), "its end")


def test_a_follower_that_is_stopped_takes_the_gang(gang: NewGang) -> None:
    one = gang()
    one.start("node2", "rank-deaf", stop_s=0.5)
    head = one.start("node1")
    served(head, 1)
    one.of["node2"].process.terminate()
    assert one.of["node2"].end() == 0
    head.until(lambda: waits_for(head), "a closed gate")
    assert restarts(head) == [("server", "rank-exited")]


# Strangers


def test_a_stranger_learns_nothing_and_is_named_once(gang: NewGang) -> None:
    one = gang("node2", "node3")
    head = one.start("node1")
    head.until(lambda: head.events[1:], "the link")
    overheard = hello("node2")("the challenge of another conversation")
    strangers: dict[str, list[bytes | Greeting]] = {
        "it does not know the token": [hello("node2", "another"), overheard],
        "no greeting: what came on the link is no message": [b"GET / HTTP/1.1\r\n\r\n"],
        "no greeting: no sign of life on the link for 0.5 s": [b'{"hello": '],
        "node9 is no node of this cluster": [hello("node9")],
    }
    for why, lines in strangers.items():
        for _ in range(2):
            assert one.greet(*lines) == b"", why
    odd = [b"[" * 50_000 + b"\n", b"x" * 200_000, b"3\n", b'{"hello": {}, "proof": []}\n']
    odd += [b'{"proof": "\\ud800"}\n', b'{"hello": "\\ud800", "nonce": "\\ud800", "proof": "x"}\n', overheard]
    for line in odd:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            assert one.greet(line) == b""
    with socket.create_connection(("127.0.0.1", one.port)):
        pass  # a look at whether the port is open
    head.until(lambda: len(refusals(head)) >= len(strangers), "refusals")
    time.sleep(0.3)
    assert sorted(refusals(head)) == sorted(strangers)
    assert head.phases() == ["gate"]
    assert head.stdout == b""


def test_half_open_connections_keep_no_follower_out(gang: NewGang) -> None:
    one = gang()
    head = one.start("node1", constants={**QUICK, "HELLO_S": 30, "MAX_STRANGERS": 8})
    head.until(lambda: head.events[1:], "the link")
    held = [socket.create_connection(("127.0.0.1", one.port)) for _ in range(40)]
    one.start("node2")
    served(head, 1)
    held[0].settimeout(5)
    with held[0].makefile("rb") as oldest:
        assert oldest.read().count(b"\n") <= 1, "the oldest go first, with the challenge at most"
    for each in held:
        each.close()


def test_a_follower_with_another_token_is_named_on_both_sides(gang: NewGang) -> None:
    one = gang()
    one.expected["node2"] = "127.0.0.1"  # where it comes from, on one machine
    head = one.start("node1")
    one.token = one.folder / "other"
    one.token.write_text("another", encoding="ascii")
    one.where["token_file"] = str(one.token)
    node2 = one.start("node2")
    words = "only 1 of 2 nodes are on the link; missing: node2 (refused: it does not know the token)"
    head.until(lambda: waits_for(head) == words, words)
    node2.until(lambda: "another token" in waits_for(node2), "the likely cause")
    time.sleep(0.5)
    assert refusals(head) == ["it does not know the token"]
    assert node2.phases() == ["standby"]
    one.token.write_text(TOKEN, encoding="ascii")
    served(head, 1)


def test_the_token_is_never_on_the_network_and_a_head_without_it_gives_no_orders(gang: NewGang) -> None:
    one = gang()
    said = b""
    with socket.create_server(("127.0.0.1", one.port)) as false_head:
        node2 = one.start("node2")
        for _ in range(2):  # once with a wrong proof, once with the follower's own, sent back
            link, _ = false_head.accept()
            with link, link.makefile("rb") as file:
                link.sendall(b'{"challenge": "a challenge"}\n')
                said = file.readline()
                mine = json.loads(said)["proof"] if said and "does not know" in waits_for(node2) else "a proof"
                link.sendall(json.dumps({"welcome": mine}).encode() + b'\n{"start": 7}\n')
                assert file.read() == b"", "nothing more is said to it"
            node2.until(lambda: "does not know the token" in waits_for(node2), "a false head, by its name")
    greeting = json.loads(said)
    assert greeting["hello"] == "node2"
    assert TOKEN not in said.decode()
    assert node2.phases() == ["standby"]
    head = one.start("node1")
    served(head, 1)
    assert TOKEN not in one.greet(hello("node2"), b"no JSON\n").decode()


def test_the_newest_connection_of_a_name_counts(gang: NewGang) -> None:
    one = gang()
    head, node2 = one.start_all()
    served(head, 1)
    assert b'{"beat": 1}' in one.greet(hello("node2"), b"no JSON\n"), "it knows the token"
    served(head, 2)
    assert restarts(head) == [("server", "member-lost")]
    assert restarts(node2) == [("server", "head-lost")]


# Data parallel: several engines behind one endpoint


ENGINES = [{"kind": "completion", "process": "server", "engine": engine, "engines": 2} for engine in (0, 1)]
TWO_ENGINES: dict[str, Any] = {**ALONE, "processes": [SERVER], "watches": [lives("server-exited"), *ENGINES]}


def alone(folder: Path, **options: Any) -> Run:
    return Run(folder, "engines", **{**TWO_ENGINES, **options})


def test_every_engine_is_asked_and_one_that_hangs_is_noticed_beside_one_that_answers(tmp_path: Path) -> None:
    run = alone(tmp_path, adopted=True, hang_s=1)
    try:
        served(run, 1)
        assert set((tmp_path / "engines-asked").read_text(encoding="ascii").split()) == {"0", "1"}
        asked = [event["engine"] for event in run.events if event["event"] == "canary"]
        assert {0, 1} <= set(asked)
        assert run.phases().count("serving") == 1
        (tmp_path / "hung-engine").write_text("1", encoding="ascii")
        run.until(lambda: restarts(run), "a hanging engine")
        (tmp_path / "hung-engine").unlink()
        assert restarts(run) == [("server", "server-hangs")]
        detail = run.state["restarts"][0]["detail"]
        assert detail == "no token of engine 1 within 1 s, and the engine made no progress"
        served(run, 2)
        run.process.terminate()
        assert run.end() == 0
    finally:
        run.process.kill()


def test_ready_only_when_every_engine_has_completed_a_token(tmp_path: Path) -> None:
    (tmp_path / "hung-engine").write_text("0", encoding="ascii")
    run = alone(tmp_path, load_timeout_s=3)
    try:
        run.until(lambda: any(event.get("engine") == 1 for event in run.events), "a token of engine 1")
        failed = run.failure()
        assert (failed["reason"], failed["detail"]) == (
            "load-timeout",
            "no completion of engine 0 within 3 s of the server's start",
        )
        assert "serving" not in run.phases()
    finally:
        run.process.kill()
