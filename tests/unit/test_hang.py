"""What is seen of a server that hangs: NCCL's words, real processes in real states, an agent that notes it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from clusterctl.agent.inside import hang
from clusterctl.diagnosis import processes
from tests.unit.test_agent import Start, start
from tests.unit.test_unavailable import VLLM, served

__all__ = ["start"]  # the fixture

pytestmark = pytest.mark.timeout(90)

HEAD = """NCCL version 2.28.9 compiled with CUDA 13.0
Job summary
===========
  Nodes  Processes         GPUs  Processes     GPUs
 (total)   per node  per process    (total)  (total)
       2          1            1          2        2

Communicators... (5.00s)
=============
Group     Comms     Nodes     Ranks     Ranks     Ranks    Status  Errors
    #  in group  per comm  per node  per comm  in group
    0         3         2         1         2         2   RUNNING  {errors}

Errors
======

"""
"""As documented (docs.nvidia.com/deeplearning/nccl, troubleshooting/ras), with VERBOSE."""
OK = HEAD.format(errors="OK") + "Warnings\n========\n"
INCOMPLETE = (
    HEAD.format(errors="INCOMPLETE")
    + """INCOMPLETE
  Missing communicator data from 1 job process
  Process 236 on node 10.77.0.2 managing GPU 0

#0-0 (cf264af53edbe986) INCOMPLETE
  Missing communicator data from 1 rank
  Rank 1 -- GPU 0 managed by process 236 on node 10.77.0.2

Warnings
========

TIMEOUT
  Encountered 2 communication timeouts while gathering communicator data
"""
)
DEAD = (
    HEAD.format(errors="INCOMPLETE")
    + """DEAD
  1 job process is considered dead (unreachable via the RAS network)
  Process 236 on node 10.77.0.2 managing GPU 0

#0-0 (cf264af53edbe986) INCOMPLETE
  Missing communicator data from 1 rank
  The missing rank: 1
"""
)
MISMATCH = (
    HEAD.format(errors="MISMATCH")
    + """Warnings
========

#0-0 (27a079b828ff1a75) MISMATCH
  Communicator ranks have different collective operation counts
  1 rank has launched up to operation 6650
  Rank 0 -- GPU 0 managed by process 240 on node 10.77.0.1
  1 rank has launched up to operation 6649
  Rank 1 -- GPU 0 managed by process 236 on node 10.77.0.2
"""
)
RANK1 = {"node": "10.77.0.2", "pid": 236, "gpu": "0", "rank": 1}


@pytest.mark.parametrize(
    ("text", "missing", "behind"),
    [
        (OK, [], []),
        (INCOMPLETE, [{**RANK1, "dead": False}], []),
        (DEAD, [{"node": "10.77.0.2", "pid": 236, "gpu": "0", "dead": True}], []),
        (MISMATCH, [], [RANK1]),
        ("", [], []),
        ("HTTP/1.1 400 Bad Request\r\n\r\nno RAS at all", [], []),
    ],
    ids=["ok", "incomplete", "dead", "mismatch", "empty", "another service"],
)
def test_whom_nccl_names(text: str, missing: list[Any], behind: list[Any]) -> None:
    found = hang.parsed_ras(text)
    assert (found["missing"], found["behind"]) == (missing, behind)


def test_nccl_is_asked_as_its_protocol_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def answer(listener: socket.socket) -> None:
        with listener.accept()[0] as client:
            asked.append(client.recv(1000))
            client.sendall(INCOMPLETE.encode())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("NCCL_RAS_ADDR", f"localhost:{listener.getsockname()[1]}")
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        assert hang.ask_ras()["missing"][0]["pid"] == 236
        assert asked == [b"CLIENT PROTOCOL 2\nTIMEOUT 5\nVERBOSE STATUS\n"]


@pytest.mark.parametrize("address", ["localhost:9", "localhost:no", "", "localhost:99999999"])
def test_without_nccl_there_is_a_reason(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NCCL_RAS_ADDR", address)
    assert "RAS does not answer" in hang.ask_ras()["problem"]


def test_a_ras_that_takes_the_question_and_says_nothing_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hang, "RAS_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("NCCL_RAS_ADDR", f"127.0.0.1:{listener.getsockname()[1]}")
        began = time.monotonic()
        assert "problem" in hang.ask_ras()
        assert time.monotonic() - began < 3


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    """A process with the title of one of vLLM's."""
    spin = "import time\nwhile True: time.sleep(0.01)"
    process = subprocess.Popen(["VLLM::Worker_PP7", "-c", spin], executable=sys.executable)
    yield process
    process.kill()
    process.wait()


def of(found: dict[str, Any], pid: int) -> dict[str, Any]:
    return next(each for each in found["processes"] if each["pid"] == pid)


def test_the_state_of_a_process_is_read_of_the_kernel(
    worker: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_RAS_ADDR", "localhost:9")
    until_named(worker.pid)
    seen = of(hang.look({}, 0.3), worker.pid)
    assert (seen["name"], seen["state"] in "SR") == ("VLLM::Worker_PP7", True)
    worker.send_signal(signal.SIGSTOP)
    found = hang.look({}, 0.3)
    assert of(found, worker.pid)["state"] == "T"
    assert of(found, worker.pid)["used_s"] == 0
    own = {**found, "processes": [of(found, worker.pid)]}
    assert hang.blamed(own) == f"process {worker.pid} (VLLM::Worker_PP7) on this node is stopped by a signal"
    assert found["hung"] is None, "only the node with the API can tell"
    threading.Timer(0.2, worker.kill).start()
    ended = of(hang.look({}, 0.8), worker.pid)
    assert (ended["name"], ended["state"] in ("Z", "gone")) == ("VLLM::Worker_PP7", True)


def until_named(pid: int) -> None:
    deadline = time.monotonic() + 10
    while pid not in hang.ours():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Api(BaseHTTPRequestHandler):
    silent: ClassVar[set[str]] = set()
    """Engines of which no token comes."""
    stuck: ClassVar[set[str]] = set()
    """Engines whose counters stand still."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if (self.headers["X-data-parallel-rank"] or "0") in self.silent:
            time.sleep(2)
        self.reply(json.dumps({"usage": {"completion_tokens": 1}}))

    def do_GET(self) -> None:
        lines = []
        for engine in ("0", "1"):
            done = 7 if engine in self.stuck else time.monotonic()
            lines.append(f'vllm:generation_tokens_total{{engine="{engine}"}} {done}')
            lines.append(f'vllm:num_requests_running{{engine="{engine}",x="y"}} 2')
        self.reply("\n".join(lines) + "\n")

    def reply(self, text: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that has given up is what these tests are about."""


@pytest.mark.parametrize(
    ("silent", "stuck", "hung"),
    [(set(), set(), False), ({"1"}, {"1"}, True), ({"1"}, set(), False), (set(), {"1"}, False), ({"0"}, {"1"}, False)],
    ids=["serves", "hangs", "slow", "idle", "slow beside an idle one"],
)
def test_an_engine_hangs_that_gives_no_token_and_does_nothing(
    monkeypatch: pytest.MonkeyPatch, silent: set[str], stuck: set[str], hung: bool
) -> None:
    monkeypatch.setenv("NCCL_RAS_ADDR", "localhost:9")
    monkeypatch.setattr(Api, "silent", silent)
    monkeypatch.setattr(Api, "stuck", stuck)
    monkeypatch.setattr(hang, "SHORT_S", 0.05)
    with Quiet(("127.0.0.1", 0), Api) as http:
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        where = {"endpoint_host": "127.0.0.1", "endpoint_port": http.server_port, "model": "tiny", "listen": {"x": 1}}
        found = hang.look(where, 0.5)
        http.shutdown()
    assert found["hung"] is hung
    assert [(each["engine"], each["requests"], each["moved"]) for each in found["engines"]] == [
        (0, 2, "0" not in stuck),
        (1, 2, "1" not in stuck),
    ]


def test_an_api_that_answers_nothing_hangs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_RAS_ADDR", "localhost:9")
    monkeypatch.setattr(hang, "METRICS_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        where = {"endpoint_host": "127.0.0.1", "endpoint_port": port, "model": "tiny", "listen": {"x": 1}}
        found = hang.look(where, 0.4)
    assert (found["hung"], found["engines"]) == (True, [])
    assert found["completions"] == [{"engine": None, "problem": "no token within 0.4 s"}]


def test_no_server_is_no_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_RAS_ADDR", "localhost:9")
    monkeypatch.setattr(hang, "SHORT_S", 0.05)
    where = {"endpoint_host": "127.0.0.1", "endpoint_port": 9, "model": "tiny", "listen": {"x": 1}}
    assert hang.look(where, 0.4)["hung"] is False


def test_the_agent_writes_down_who_is_waited_for_before_it_kills_the_server(start: Start) -> None:
    constants = {"LAST_READ_S": 0.5, "METRICS_TIMEOUT_S": 0.5, "HANG_LOOK_S": 0.5}
    run = start(adopted=True, hang_s=1, canary_interval_s=0.5, constants=constants, **served(*VLLM))
    (run.fake / "loaded").touch()
    run.until_phase("serving")
    os.kill(int((run.fake / "server.pid").read_text(encoding="ascii")), signal.SIGSTOP)
    run.until(lambda: run.state["restarts"], "a restart")
    (restart,) = run.state["restarts"]
    assert restart["reason"] == "server-hangs"
    assert "(the API server) on this node is stopped by a signal" in restart["detail"]
    names = [event["event"] for event in run.events]
    assert names.index("hang") < names.index("restart")
    (event,) = [event for event in run.events if event["event"] == "hang"]
    assert [each["state"] for each in event["processes"] if f"process {each['pid']} " in event["blamed"]] == ["T"]


def test_what_diagnose_runs_prints_one_object(tmp_path: Path) -> None:
    package = Path(hang.__file__).parent
    environment = {**os.environ, "NCCL_RAS_ADDR": "localhost:9"}
    argv = [sys.executable, str(package), "hang"]
    done = subprocess.run(argv, capture_output=True, check=True, timeout=60, env=environment, cwd=tmp_path)
    assert set(json.loads(done.stdout)) >= {"address", "processes", "engines", "completions", "ras", "hung"}
    assert done.stderr == b""


def test_kernel_stacks_are_read_on_the_node_by_the_ids_inside(worker: subprocess.Popen[bytes]) -> None:
    """As root here; without the right to read them there are none, and no error."""
    worker.send_signal(signal.SIGSTOP)  # what runs at that moment has none
    deadline = time.monotonic() + 10
    while "State:\tT" not in Path(f"/proc/{worker.pid}/status").read_text(encoding="utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    argv = ["sh", "-c", f"SUDO=command\n{processes.STACKS}", "sh", str(worker.pid), "999999999"]
    done = subprocess.run(argv, capture_output=True, check=True, timeout=10, text=True)
    (inner, *frames), *others = [part.splitlines() for part in done.stdout.split("pid ")[1:]]
    assert inner == str(worker.pid)
    assert bool(frames) == (os.geteuid() == 0)
    assert others == [[""]], "a process that has ended meanwhile"
    assert done.stderr == ""
