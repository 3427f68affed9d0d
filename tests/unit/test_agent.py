"""The agent as a process, with stand-ins for its children (fixtures/agent): what it says, waits for, and ends with."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clusterctl.agent.events import parse_event
from clusterctl.agent.inside import api, node
from clusterctl.agent.paths import AGENT_PATH, SETTINGS_PATH, SOURCES
from clusterctl.agent.reasons import FAILURES
from clusterctl.planning.container import container_specs
from tests.unit.support import FIXTURES, deployment

STAND_INS = FIXTURES / "agent"
BOTH = {"127.0.0.1": 1, "127.0.0.2": 1}
PATIENCE_S = 30

pytestmark = pytest.mark.timeout(60)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def over_ray(role: str, gcs: int, raylet_port: int) -> dict[str, Any]:
    """What modes/ray.py says of a node, for the two of these tests (test_modes.py has what it says of real ones)."""
    store = {"address": "127.0.0.1", "port": gcs}
    head = role == "head"
    argv = ["ray", "start", *(["--head", f"--port={gcs}"] if head else [f"--address=127.0.0.1:{gcs}"])]
    ray = {"name": "ray", "program": "ray", "argv": argv, "gated": False, "alone": False, "stop_s": 5}
    ray["after"] = None if head else ["127.0.0.1", gcs]
    server = {"name": "server", "program": "server", "gated": True, "alone": True, "stop_s": None, "after": None}
    lives = {"kind": "process", "process": "ray", "reason": "ray-exited"}
    if not head:
        watches = [lives, {"kind": "ray-control-store", "process": "ray", **store}]
        return {"processes": [ray], "gate": {"kind": "none"}, "watches": watches, "stop": ["ray"]}
    watches = [
        lives,
        {"kind": "process", "process": "server", "reason": "server-exited"},
        {"kind": "completion", "process": "server", "engine": 0},
        {"kind": "ray-actors", "process": "server"},
    ]
    gate = {"kind": "ray-nodes", **store, "raylet_port": raylet_port, "expected": BOTH}
    return {"processes": [ray, server], "gate": gate, "watches": watches, "stop": ["server", "ray"]}


def sent(folder: Path) -> Path:
    """The agent's package as it lies in a container."""
    package = folder / Path(AGENT_PATH).name
    package.mkdir(exist_ok=True)
    for path, source in SOURCES.items():
        (package / Path(path).name).write_bytes(source.read_bytes())
    return package


class Run:
    """One agent that runs, and what it says."""

    def __init__(
        self,
        folder: Path,
        mode: str = "ok",
        *,
        nodes: dict[str, int] | None = None,
        adopted: bool = False,
        **config: Any,
    ) -> None:
        self.fake = folder
        self.write("nodes.json", BOTH if nodes is None else nodes)
        self.write("actors.json", {"vllm_Worker_1_PP0": "127.0.0.1", "other_actor": "127.0.0.1"})
        gcs, api = free_port(), free_port()
        role = config.get("role", "head")
        raylets = socket.create_server(("0.0.0.0", 0))  # both nodes' raylet, as far as its port goes
        self.raylets = raylets
        raylet_port = config.pop("raylet_port", raylets.getsockname()[1])
        own = {"node": "node1", "role": role, "private_shm": False, **over_ray(role, gcs, raylet_port)}
        server = {
            "server_argv": [sys.executable, str(STAND_INS / "server.py"), mode, str(api)],
            "keep_lines": ["KV cache size"],
            "endpoint_host": "127.0.0.1",
            "endpoint_port": api,
            "listen": None,
            "model": "tiny",
        }
        settings = {
            "supervise": True,
            "ray_timeout_s": 20,
            "load_timeout_s": 20,
            "drain_s": 2,
            "stop_s": 3,
            "canary_interval_s": 0.05,
            "hang_s": 5,
            "max_restarts": 3,
        }
        self.write("constants.json", config.pop("constants", {}))
        said = [{**part, **{key: config[key] for key in part if key in config}} for part in (own, server, settings)]
        self.gcs_port = gcs
        for name, part in zip(("agent.json", "server.json", "settings.json"), said, strict=True):
            self.write(name, part)
        if adopted:
            (folder / "adopted").touch()
        environment = {
            **os.environ,
            "FAKE": str(folder),
            "PYTHONPATH": str(STAND_INS / "site"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(STAND_INS / "launch.py"), str(sent(folder))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self.events: list[dict[str, Any]] = []
        self.strange: list[str] = []
        """Lines of stderr that are no events."""
        self.stdout = b""
        self.readers = [threading.Thread(target=read, daemon=True) for read in (self._read_stdout, self._read_stderr)]
        for reader in self.readers:
            reader.start()

    def write(self, name: str, value: object) -> None:
        """Replace a file at once, as a reader may look at any time."""
        (self.fake / "new").write_text(json.dumps(value), encoding="utf-8")
        (self.fake / "new").replace(self.fake / name)

    def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        while chunk := self.process.stdout.read1(65536):  # type: ignore[attr-defined]
            self.stdout += chunk

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        for raw in self.process.stderr:
            event = parse_event(raw.decode())
            if event is None:
                self.strange.append(raw.decode())
            else:
                self.events.append({"event": event.name, "t": event.t, "server": event.server, **event.fields})

    @property
    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.fake / "run" / "state.json").read_text(encoding="utf-8")))

    @property
    def order(self) -> list[str]:
        file = self.fake / "order"
        return file.read_text(encoding="utf-8").splitlines() if file.exists() else []

    def phases(self) -> list[str]:
        return [event["phase"] for event in self.events if event["event"] == "phase"]

    def until(self, happened: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            assert time.monotonic() < deadline, f"no {what}: {self.events} {self.strange} {self.stdout[-500:]!r}"
            time.sleep(0.01)

    def until_phase(self, phase: str) -> None:
        self.until(lambda: phase in self.phases(), phase)

    def end(self) -> int:
        """Wait for its end; returns its exit code."""
        code = self.process.wait(PATIENCE_S)
        for reader in self.readers:
            reader.join(PATIENCE_S)
        assert self.strange == [], "stderr is the channel of events"
        times = [event["t"] for event in self.events]
        assert times == sorted(times)
        return code

    def failure(self) -> dict[str, Any]:
        """The agent gives up: exit code 1, one `failed` event, and the state says the same."""
        assert self.end() == 1
        (failed,) = [event for event in self.events if event.get("phase") == "failed"]
        assert failed["reason"] in FAILURES
        assert failed["reason"] != "agent-bug", failed
        assert self.state["phase"] == "failed"
        assert self.state["ready"] is False
        assert (self.state["reason"], self.state["detail"]) == (failed["reason"], failed["detail"])
        return failed


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start_one(mode: str = "ok", *, again: Run | None = None, **options: Any) -> Run:
        """`again`: the container's next life, as the engine's restart policy gives it: the same files."""
        folder = tmp_path / str(len(runs)) if again is None else again.fake
        assert again is None or again.process.poll() is not None
        folder.mkdir(exist_ok=True)
        runs.append(Run(folder, mode, adopted=options.pop("adopted", again is not None), **options))
        return runs[-1]

    yield start_one
    for run in runs:
        run.process.terminate()
        try:
            run.process.wait(15)
        finally:
            run.process.kill()


Start = Callable[..., Run]


# The way up


def test_ready_only_after_a_token_and_down_again_server_first(start: Start) -> None:
    run = start()
    run.until_phase("serving")
    assert run.phases() == ["ray", "gate", "loading", "serving"]
    names = [(event["event"], event.get("phase")) for event in run.events]
    assert names.index(("canary", None)) < names.index(("phase", "serving"))
    run.until(lambda: sum(event["event"] == "canary" for event in run.events) > 2, "further canaries")
    run.until(lambda: run.state["workers"], "a look at the workers")
    state = run.state
    assert state["ready"] is True
    assert state["nodes"] == BOTH
    assert state["workers"] == {"vllm_Worker_1_PP0": "127.0.0.1"}
    assert state["kept"] == ["GPU KV cache size: 4,096 tokens"]
    assert state["canary"]["tokens"] == 1
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0
    assert run.order == ["server stopped", "ray stopped"]
    assert run.phases()[-2:] == ["stopping", "stopped"]
    assert run.state["ready"] is False
    assert b"half a line" in run.stdout
    assert run.stdout.count(b"x") >= 1_000_000, "the server's last words"
    assert b"client port closed" in run.stdout


def test_the_gate_opens_for_exactly_the_declared_nodes(start: Start) -> None:
    run = start(nodes={"127.0.0.1": 1})
    run.until(lambda: any(e["event"] == "nodes" and e["joined"] == ["127.0.0.1"] for e in run.events), "first node")
    time.sleep(0.3)
    assert "loading" not in run.phases()
    run.write("nodes.json", BOTH)
    run.until_phase("loading")
    joined = [event["joined"] for event in run.events if event["event"] == "nodes"]
    assert joined[-1] == ["127.0.0.1", "127.0.0.2"]


def test_a_worker_waits_for_its_head_and_runs_nothing_but_ray(start: Start) -> None:
    run = start(role="worker")
    run.until_phase("ray")
    time.sleep(0.3)
    assert not (run.fake / "ray-argv").exists(), "Ray starts only when the head listens"
    with socket.create_server(("127.0.0.1", run.gcs_port)):
        run.until((run.fake / "ray-argv").exists, "ray start")
        run.process.send_signal(signal.SIGTERM)
        assert run.end() == 0
    assert run.phases() == ["ray", "stopping", "stopped"]


# Giving up: what the stand-ins do, and the reason, words of its detail, and phases that the agent must not have reached

FAILURES_OF: dict[str, tuple[dict[str, Any], str, str]] = {
    "a node that was not declared": (
        {"nodes": {**BOTH, "10.0.0.9": 1}, "ray_timeout_s": 600},
        "ray-nodes-wrong",
        "10.0.0.9 is in Ray but is not a node",
    ),
    "a node with more GPUs than declared": (
        {"nodes": {"127.0.0.1": 2}, "ray_timeout_s": 600},
        "ray-nodes-wrong",
        "127.0.0.1 has 2 GPUs in Ray, 1 are declared",
    ),
    "a node without its GPU": (
        {"nodes": {"127.0.0.1": 0}, "ray_timeout_s": 600},
        "ray-nodes-wrong",
        "127.0.0.1 has 0 GPUs in Ray, 1 are declared",
    ),
    "a node that does not come": (
        {"nodes": {"127.0.0.1": 1, "127.0.0.2": -1}, "ray_timeout_s": 5},
        "ray-nodes-missing",
        "only 1 of 2 nodes are in Ray; missing: 127.0.0.2",
    ),
    "a server that ends while it loads, with 0": ({"mode": "exit0"}, "server-exited", "exit code 0"),
    "a server that ends while it loads, with 3": ({"mode": "exit3"}, "server-exited", "exit code 3"),
    "a server that answers HTTP 500": ({"mode": "http500"}, "no-completion", "HTTP 500"),
    "a server that answers without a token": ({"mode": "no-token"}, "no-completion", "no token"),
    "a server that never listens": ({"mode": "silent", "load_timeout_s": 2}, "load-timeout", "within 2 s"),
}


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """All of them at once: most of their time is waiting."""
    runs = {name: Run(tmp_path_factory.mktemp("failing"), **said) for name, (said, _, _) in FAILURES_OF.items()}
    yield runs
    for run in runs.values():
        run.process.kill()


@pytest.mark.parametrize("name", FAILURES_OF)
def test_what_cannot_work_is_a_failure_with_its_reason(failing: dict[str, Run], name: str) -> None:
    said, reason, words = FAILURES_OF[name]
    run = failing[name]
    failed = run.failure()
    assert failed["reason"] == reason
    assert words in failed["detail"]
    assert "serving" not in run.phases()
    if "mode" in said:
        assert any("KV cache size: 4,096 tokens" in line for line in failed["tail"]), "the server's own last lines"
    else:
        assert "loading" not in run.phases()


def test_generation_that_dies_later_is_found_by_the_canary(start: Start) -> None:
    run = start("turns-bad")
    assert run.failure()["reason"] == "no-completion"
    assert "serving" in run.phases()


def test_a_server_that_dies_later_is_the_reason_not_its_unanswered_canary(start: Start) -> None:
    failed = start("dies-later").failure()
    assert (failed["reason"], failed["exit_code"]) == ("server-exited", 0)


@pytest.mark.parametrize("role", ["head", "worker"])
def test_rays_death_ends_the_node(start: Start, role: str) -> None:
    run = start(role=role)
    with socket.create_server(("127.0.0.1", run.gcs_port)) if role == "worker" else socket.socket():
        run.until_phase("serving" if role == "head" else "ray")
        (run.fake / "ray-dies").touch()
        failed = run.failure()
    assert (failed["reason"], failed["exit_code"]) == ("ray-exited", 7)
    assert failed["detail"].startswith("`ray start` ended"), "the command as people know it, not how the agent runs it"
    assert run.order == (["server stopped"] if role == "head" else [])


def test_a_probe_that_dies_is_named(start: Start) -> None:
    run = start()
    run.until_phase("serving")
    (run.fake / "probe-dies").touch()
    failed = run.failure()
    assert (failed["reason"], failed["exit_code"]) == ("probe-died", 3)


def test_a_program_that_is_not_in_the_image_is_named(start: Start) -> None:
    run = start(server_argv=["no-such-vllm", "serve"])
    assert run.end() == 1
    (failed,) = [event for event in run.events if event.get("phase") == "failed"]
    assert "no-such-vllm" in failed["detail"]


# Stopping


def test_a_stop_while_it_waits_for_nodes_ends_it_cleanly(start: Start) -> None:
    run = start(nodes={"127.0.0.1": 1})
    run.until_phase("gate")
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 0
    assert run.phases()[-2:] == ["stopping", "stopped"]


def test_a_server_that_does_not_listen_to_sigterm_is_killed_and_said_to_be(start: Start) -> None:
    run = start("deaf", drain_s=0, stop_s=0.3)
    run.until_phase("serving")
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0
    assert [event["child"] for event in run.events if event["event"] == "killed"] == ["server"]
    assert run.order == ["ray stopped"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=["stop", "drain"])
def test_a_server_that_does_not_serve_yet_is_not_waited_for_long(start: Start, number: signal.Signals) -> None:
    run = start("silent-deaf", stop_s=60, constants={"LOADING_STOP_S": 0.5})
    run.until_phase("loading")
    run.until((run.fake / "server.pid").exists, "a server")
    began = time.monotonic()
    run.process.send_signal(number)
    run.until_phase("drained" if number == signal.SIGUSR1 else "stopped")
    assert time.monotonic() - began < 15
    if number == signal.SIGUSR1:
        run.process.terminate()
    assert run.end() == 0


@pytest.mark.parametrize("phase", ["gate", "serving"])
def test_draining_ends_the_server_and_leaves_ray(start: Start, phase: str) -> None:
    run = start(nodes={"127.0.0.1": 1} if phase == "gate" else BOTH)
    run.until_phase(phase)
    run.until(lambda: any(event["event"] == "nodes" for event in run.events), "a look at Ray")
    run.process.send_signal(signal.SIGUSR1)
    run.until_phase("drained")
    assert run.state["ready"] is False
    time.sleep(0.3)
    assert run.process.poll() is None, run.events
    assert run.order == (["server stopped"] if phase == "serving" else [])
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0
    assert run.order[-1] == "ray stopped"


# Healing: the same failures in a cluster that `up` has adopted


def restarts(run: Run) -> list[tuple[str, str]]:
    return [(each["scope"], each["reason"]) for each in run.state["restarts"]]


def test_a_server_that_dies_is_started_again_and_the_reason_kept(start: Start) -> None:
    run = start("dies-later", adopted=True)
    run.until_phase("serving")
    (run.fake / "mode").write_text("ok", encoding="ascii")
    run.until(lambda: run.phases().count("serving") == 2, "a second server")
    assert restarts(run) == [("server", "server-exited")]
    assert (run.state["server"], run.state["ready"], run.state["restarts_total"]) == (2, True, 1)
    serving = [event["server"] for event in run.events if event.get("phase") == "serving"]
    assert serving == [1, 2]
    run.process.terminate()
    assert run.end() == 0


def test_when_a_new_server_does_not_help_the_whole_gang_begins_anew(start: Start) -> None:
    run = start("dies-later", adopted=True)
    assert run.end() == 1
    assert restarts(run) == [("server", "server-exited"), ("gang", "server-exited")]
    assert run.state["phase"] == "restarting"
    assert "failed" not in run.phases()


def cut_power(run: Run) -> None:
    """Everything dies at once, as in a container whose first process is killed."""
    children = Path("/proc", str(run.process.pid), "task", str(run.process.pid), "children").read_text().split()
    run.process.kill()
    run.process.wait()
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)


def test_the_record_of_restarts_outlives_the_container(start: Start) -> None:
    run = start("dies-later", adopted=True)
    assert run.end() == 1
    second = start(again=run)
    second.until_phase("serving")
    assert restarts(second) == [("server", "server-exited"), ("gang", "server-exited")]
    assert second.state["server"] == 3
    cut_power(second)
    third = start(again=second)
    third.until(lambda: any(said["event"] == "nodes" for said in third.events), "a look at the nodes")
    assert restarts(third)[-1] == ("container", "container-ended")
    third.process.terminate()
    assert third.end() == 0
    fourth = start(again=third)
    fourth.until_phase("ray")
    assert restarts(fourth)[-1] == ("container", "started-again")
    cut_power(fourth)


def test_there_is_a_limit_and_the_container_then_stays_with_the_reason(start: Start) -> None:
    run = start("exit3", adopted=True, max_restarts=2)
    assert run.end() == 1
    second = start("exit3", again=run, max_restarts=2)
    second.until_phase("failed")
    assert second.state["detail"].startswith("gave up after 2 restarts in a row; the last time: ")
    assert (second.state["reason"], second.state["ready"]) == ("server-exited", False)
    time.sleep(0.5)
    assert second.process.poll() is None, "an end would make the engine start it again"
    second.process.terminate()
    assert second.end() == 0
    third = start("exit3", again=second, max_restarts=2)
    third.until(lambda: restarts(third)[-1] == ("container", "started-again"), "a record of what a person did")


def test_the_count_of_failures_begins_again_with_good_service_also_for_another_life(start: Start) -> None:
    run = start("dies-later", adopted=True)
    assert run.end() == 1
    assert run.state["failures"] == 2
    second = start(again=run, constants={"STABLE_S": 0.2})
    second.until(lambda: second.state["failures"] == 0, "a count that begins again")


def test_a_full_disk_is_no_reason_to_stop(start: Start) -> None:
    run = start(adopted=True)
    run.until_phase("serving")
    in_the_way = run.fake / "run" / "state.new"
    in_the_way.mkdir()  # nothing can be written there, as on a disk without space
    before = len(run.events)
    run.until(lambda: len(run.events) > before + 5, "canaries")
    assert run.phases()[-1] == "serving"
    assert restarts(run) == []
    assert run.stdout.count(b"the state cannot be saved") == 1
    in_the_way.rmdir()
    run.until(lambda: run.state["canary"]["t"] > run.events[before]["t"] + 0.3, "a state that is saved again")
    run.process.terminate()
    assert run.end() == 0


def test_settings_that_a_loss_of_power_emptied(start: Start) -> None:
    run = start(adopted=True)
    run.until_phase("serving")
    (run.fake / "settings.json").write_text("", encoding="utf-8")
    before = len(run.events)
    run.until(lambda: len(run.events) > before + 3, "canaries")
    cut_power(run)
    second = start(again=run)
    (second.fake / "settings.json").write_text("", encoding="utf-8")
    second.until_phase("serving")
    assert restarts(second) == [("container", "container-ended")]


def test_the_default_settings_are_those_of_an_inventory_that_says_nothing() -> None:
    specs = container_specs(deployment())
    assert json.loads(specs["gpu1"].files[SETTINGS_PATH]) == node.DEFAULT_SETTINGS


def test_what_fails_while_it_is_being_stopped_ends_no_request_and_starts_no_server(start: Start) -> None:
    run = start("refuses-when-draining", adopted=True, drain_s=1)
    run.until_phase("serving")
    (run.fake / "run" / f"busy-{os.getpid()}").touch()  # a request that takes longer than it is given
    run.process.terminate()
    began = time.monotonic()
    assert run.end() == 0
    assert time.monotonic() - began > 1
    assert restarts(run) == []
    assert run.state["failures"] == 0
    assert run.order == ["server stopped", "ray stopped"]
    assert sum(event.get("phase") == "loading" for event in run.events) == 1


def test_a_first_completion_that_hangs_is_a_hang(start: Start) -> None:
    failed = start("hangs", constants={"CANARY_TIMEOUT_S": 0.5}).failure()
    assert (failed["reason"], failed["detail"]) == (
        "server-hangs",
        "the server listens, and gave no token within 0.5 s",
    )


@pytest.mark.parametrize(
    ("answer", "running", "moved"),
    [
        (b'vllm:num_requests_running{engine="0"} 0.0\nvllm:num_requests_waiting{engine="0"} 0.0\n', False, None),
        (b'vllm:num_requests_running{engine="0"} 0.0\nvllm:num_requests_waiting{engine="0"} 2.0\n', True, None),
        (b'vllm:generation_tokens_total{engine="0"} 0.0\n', False, 0.0),
        (b"python_info 1\n", False, None),
        (b"", True, None),
    ],
    ids=["idle", "waiting", "no gauges", "no statistics", "no answer"],
)
def test_what_metrics_say(
    answer: bytes, running: bool, moved: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`b""`: the connection opens, and nothing comes."""
    monkeypatch.setattr(api, "STATE_DIR", tmp_path)
    monkeypatch.setattr(api, "METRICS_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for _ in range(2):
                connection, _ = listening.accept()
                held.append(connection)
                if answer:
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + answer)
                    connection.close()

        held: list[socket.socket] = []
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        server = {"endpoint_host": "127.0.0.1", "endpoint_port": listening.getsockname()[1]}
        assert api.requests_running(server) is running
        assert api.progress(server, 0.3) == moved
        thread.join(5)
        for connection in held:
            connection.close()
    assert api.requests_running(server) is False, "nothing listens any more"
    (tmp_path / "busy-999999999").touch()
    assert api.requests_running(server) is False, "its process is gone"
    (tmp_path / f"busy-{os.getpid()}").touch()
    assert api.requests_running(server) is True


def test_with_supervision_off_a_failure_is_final(start: Start) -> None:
    assert start("dies-later", adopted=True, supervise=False).failure()["reason"] == "server-exited"


def test_an_engine_that_does_nothing_is_found_and_replaced(start: Start) -> None:
    run = start("hangs-later", adopted=True, hang_s=1)
    run.until_phase("serving")
    (run.fake / "mode").write_text("ok", encoding="ascii")
    run.until(lambda: run.phases().count("serving") == 2, "a second server")
    assert restarts(run) == [("server", "server-hangs")]


def test_a_canary_that_waits_behind_work_is_no_failure(start: Start) -> None:
    run = start("busy-later", adopted=True, hang_s=0.5)
    run.until(lambda: sum(event["event"] == "canary-slow" for event in run.events) > 1, "slow canaries")
    assert restarts(run) == []
    assert run.state["ready"] is True


def test_a_node_that_leaves_ray_is_waited_for(start: Start) -> None:
    run = start(adopted=True)
    run.until_phase("serving")
    run.write("nodes.json", {"127.0.0.1": 1, "127.0.0.2": -1})
    run.until(lambda: run.state.get("waiting_for"), "a closed gate")
    assert restarts(run) == [("server", "node-lost")]
    assert "missing: 127.0.0.2" in run.state["waiting_for"]
    assert run.state["ready"] is False
    run.write("nodes.json", BOTH)
    run.until(lambda: run.phases().count("serving") == 2, "a second server")
    assert run.state["waiting_for"] is None


def test_a_worker_that_dies_is_noticed_before_the_server_notices(start: Start) -> None:
    run = start("after-workers", adopted=True)
    run.until_phase("serving")
    (run.fake / "mode").write_text("ok", encoding="ascii")
    run.write("actors.json", {})
    run.until(lambda: run.phases().count("serving") == 2, "a second server")
    assert restarts(run) == [("server", "worker-lost")]


def test_the_gate_stays_closed_while_a_raylet_does_not_answer(start: Start) -> None:
    run = start(raylet_port=free_port())
    run.until_phase("gate")
    run.until(lambda: "no raylet answers" in (run.state.get("waiting_for") or ""), "a look at the raylets' ports")
    time.sleep(0.5)
    assert "loading" not in run.phases()


def test_workers_that_ray_does_not_end_take_a_new_gang(start: Start) -> None:
    run = start(adopted=True)
    run.until_phase("serving")
    run.until(lambda: run.state.get("workers"), "a look at the workers")
    (run.fake / "actors-stay").touch()
    os.kill(int((run.fake / "server.pid").read_text(encoding="ascii")), signal.SIGKILL)
    run.until(lambda: run.state["server"] == 2, "a second server")
    time.sleep(0.5)
    assert run.phases().count("loading") == 1


def test_missing_nodes_take_one_new_gang_and_then_patience(start: Start) -> None:
    missing = {"127.0.0.1": 1, "127.0.0.2": -1}
    run = start(adopted=True, nodes=missing, ray_timeout_s=3)
    assert run.end() == 1
    assert restarts(run) == [("gang", "ray-nodes-missing")]
    second = start(again=run, nodes=missing, ray_timeout_s=1)
    second.until_phase("gate")
    time.sleep(3)
    assert second.process.poll() is None
    assert second.state["failures"] == 0
    second.write("nodes.json", BOTH)
    second.until_phase("serving")


def test_a_worker_begins_anew_when_its_heads_ray_is_gone(start: Start) -> None:
    run = start(role="worker", adopted=True)
    with socket.create_server(("127.0.0.1", run.gcs_port)):
        run.until((run.fake / "ray-argv").exists, "ray start")
        time.sleep(1.5)
        assert run.process.poll() is None
    assert run.end() == 1
    assert restarts(run) == [("node", "head-lost")]
    assert run.state["failures"] == 0


def ask(run: Run, **request: Any) -> None:
    (run.fake / "run" / "request.json").write_text(json.dumps(request), encoding="utf-8")
    run.process.send_signal(signal.SIGUSR1)


def test_a_restart_that_is_asked_for_lets_the_server_end_and_reads_its_options_anew(start: Start) -> None:
    run = start(adopted=True)
    run.until_phase("serving")
    config = json.loads((run.fake / "server.json").read_text(encoding="utf-8"))
    config["server_argv"][2] = "no-token"
    run.write("server.json", config)
    ask(run, action="restart", by="alice@laptop")
    run.until(lambda: ("server", "no-completion") in restarts(run), "a failure of the new options")
    assert restarts(run)[0] == ("server", "requested")
    assert run.state["restarts"][0]["detail"] == "by alice@laptop"
    assert run.order[0] == "server stopped"


def test_after_draining_a_restart_can_be_asked_for(start: Start) -> None:
    run = start()
    run.until_phase("serving")
    ask(run, action="drain", by="alice@laptop", drain_s=3)
    run.until_phase("drained")
    ask(run, action="restart", by="alice@laptop")
    run.until(lambda: run.phases().count("serving") == 2, "a second server")


# Process 1


def is_gone(pid: str) -> bool:
    return not Path("/proc", pid).exists()


def test_orphans_are_collected(start: Start) -> None:
    run = start("orphans")
    run.until_phase("serving")
    orphans = run.fake / "orphans"
    run.until(lambda: orphans.exists() and len(orphans.read_text(encoding="ascii").split()) == 3, "orphans")
    for pid in orphans.read_text(encoding="ascii").split():
        # A process that ended and was not collected stays in /proc, as a zombie.
        run.until(partial(is_gone, pid), "end of the orphan")


def test_the_state_is_whole_whenever_it_is_read(start: Start) -> None:
    run = start(canary_interval_s=0.001)
    run.until_phase("ray")
    looks = 0
    while sum(event["event"] == "canary" for event in run.events) < 30:
        state = run.state
        assert {"node", "role", "ready", "phase", "since"} <= set(state)
        assert state["ready"] == (state["phase"] == "serving")
        looks += 1
        assert run.process.poll() is None, run.events
    assert looks > 10


# A mode without Ray: the same agent, told other things


ALONE: dict[str, Any] = {
    "processes": [
        {"name": "server", "program": "server", "gated": True, "alone": False, "stop_s": None, "after": None},
    ],
    "gate": {"kind": "none"},
    "watches": [
        {"kind": "process", "process": "server", "reason": "server-exited"},
        {"kind": "completion", "process": "server", "engine": 0},
    ],
    "stop": ["server"],
}
"""One node that serves by itself."""


def test_a_server_without_a_gate_serves_at_once(start: Start) -> None:
    run = start(**ALONE)
    run.until_phase("serving")
    assert run.phases() == ["loading", "serving"]
    run.process.terminate()
    assert run.end() == 0
    assert run.order == ["server stopped"]
    assert not (run.fake / "ray-argv").exists()


def test_a_server_that_cannot_start_again_alone_takes_the_node(start: Start) -> None:
    run = start("dies-later", adopted=True, **ALONE)
    assert run.end() == 1
    assert restarts(run) == [("gang", "server-exited")]


def test_a_node_that_only_follows_is_watched_by_its_process(start: Start) -> None:
    run = start("exit0", role="worker", **{**ALONE, "watches": ALONE["watches"][:1]})
    failed = run.failure()
    assert (failed["reason"], failed["exit_code"]) == ("server-exited", 0)
    assert "serving" not in run.phases(), "that is the head's to say"
