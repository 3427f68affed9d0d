"""The main job: from an inventory to a served completion on two real nodes, and down again."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from clusterctl.lab import lab as labs
from tests.unit.test_metrics import asked, prometheus

from .conftest import UP_DEADLINE_S, Ran, Rehearsal, until

pytestmark = [pytest.mark.lab, pytest.mark.starts]

OURS = {6379, 6380, 6381, 6382, 6383, 6384, 8000, 52365}
"""Ports of the default inventory."""

METRICS_PORT = 9400

PROCESSES = ("clusterctl_agent", "raylet", "gcs_server", "ray::", "vllm", "VLLM::")
"""What the processes of a cluster are called."""


def nothing_left(rehearsal: Rehearsal) -> None:
    """No containers, ports or processes of a cluster on any node."""
    for name in rehearsal.names():
        assert rehearsal.containers(name) == []
        assert rehearsal.listening(name) & OURS == set()
        assert [line for line in rehearsal.processes(name) if any(word in line for word in PROCESSES)] == []


@pytest.fixture(scope="class")
def up(rehearsal: Rehearsal) -> Iterator[Ran]:
    """A real start, shared by the tests that only look at it."""
    ran = rehearsal.clusterctl("up", "--json")
    yield ran
    rehearsal.clusterctl("down")


class TestTwoByTwo:
    """TP=2 x PP=2 on two nodes: one start, looked at from every side."""

    def test_up_ends_with_a_completion(self, up: Ran, rehearsal: Rehearsal) -> None:
        assert up.code == 0
        summary = up.json()
        assert summary["completion"]["tokens"] == 1
        assert (summary["tensor_parallel"], summary["pipeline_parallel"]) == (2, 2)
        assert sorted(tuple(stage["nodes"]) for stage in summary["stages"]) == [("node1",), ("node2",)]
        assert [stage["pipeline_rank"] for stage in summary["stages"]] == [0, 1]
        assert summary["kv_cache"]["tokens"] > 0
        assert summary["kv_cache"]["max_concurrency"] > 0
        assert "2/2 nodes in Ray" in up.err

    def test_the_official_client_gets_an_answer(self, up: Ran, rehearsal: Rehearsal) -> None:
        summary = up.json()
        key = rehearsal.clusterctl("api-key").out.strip()
        client = OpenAI(base_url=f"{summary['endpoint']}/v1", api_key=key, timeout=60)
        chat = client.chat.completions.create(
            model=summary["model"],
            messages=[{"role": "user", "content": "Hello"}],
            max_tokens=5,
            logprobs=True,
            extra_body={"ignore_eos": True},
        )
        assert chat.usage is not None
        assert chat.usage.completion_tokens == 5
        assert chat.choices[0].logprobs is not None
        assert len(chat.choices[0].logprobs.content or []) == 5

    def test_only_probes_are_answered_without_the_key(self, up: Ran, rehearsal: Rehearsal) -> None:
        key = {"Authorization": f"Bearer {rehearsal.clusterctl('api-key').out.strip()}"}
        with httpx.Client(base_url=up.json()["endpoint"], timeout=30) as client:
            paths = client.get("/openapi.json", headers=key).raise_for_status().json()["paths"]
            calls = [(method.upper(), path) for path, methods in paths.items() for method in methods]
            assert {("POST", "/invocations"), ("POST", "/v1/completions"), ("POST", "/tokenize")} <= set(calls)
            calls += [("GET", "/metrics"), ("GET", "/docs"), ("GET", "/openapi.json")]
            answered = {call for call in calls if client.request(*call).status_code != 401}
            assert answered == {("GET", "/health"), ("GET", "/ping"), ("GET", "/metrics")}
            body = {"prompt": "Hello", "max_tokens": 2, "ignore_eos": True}
            made = client.post("/invocations", json=body, headers=key).raise_for_status().json()
            assert made["usage"]["completion_tokens"] == 2

    def test_the_printed_curl_line_works(self, up: Ran, rehearsal: Rehearsal) -> None:
        ran = rehearsal.clusterctl("up")  # changes nothing, prints the summary for a person
        line = next(row for row in ran.out.splitlines() if row.strip().startswith("curl"))
        answer = subprocess.run(["bash", "-c", line], check=True, capture_output=True, text=True, timeout=60)
        assert json.loads(answer.stdout)["usage"]["completion_tokens"] >= 1

    def test_plan_is_empty(self, up: Ran, rehearsal: Rehearsal) -> None:
        ran = rehearsal.clusterctl("plan", "--detailed-exitcode")
        assert (ran.code, ran.out.strip()) == (0, f"{rehearsal.lab.name}: nothing to do")
        assert rehearsal.clusterctl("plan", "--json").json()["changes"] is False

    def test_up_again_changes_nothing(self, up: Ran, rehearsal: Rehearsal) -> None:
        before = [rehearsal.lab.exec(n, ["docker", "ps", "-q", "--no-trunc"]) for n in rehearsal.names()]
        again = rehearsal.clusterctl("up", "--json")
        assert again.code == 0
        assert again.json()["changed"] is False
        assert [rehearsal.lab.exec(n, ["docker", "ps", "-q", "--no-trunc"]) for n in rehearsal.names()] == before

    def test_a_changed_option_is_a_plan(self, up: Ran, rehearsal: Rehearsal) -> None:
        changed = rehearsal.clusterctl.with_changes("changed", {"serve.options.max-num-seqs": 8})
        ran = changed("plan", "--detailed-exitcode")
        assert ran.code == 2
        assert "max-num-seqs" in ran.out
        assert "16 -> 8" in ran.out
        assert changed("status").code == 3

    def test_status(self, up: Ran, rehearsal: Rehearsal) -> None:
        ran = rehearsal.clusterctl("status", "--json")
        assert ran.code == 0
        status = ran.json()
        assert status["cluster"] == rehearsal.lab.name
        assert status["ready"] is True
        assert status["endpoint"] == f"http://{rehearsal.lab.address('node1')}:8000"
        assert (status["model"], status["tensor_parallel"], status["pipeline_parallel"]) == ("tiny", 2, 2)
        assert [node["name"] for node in status["nodes"]] == ["node1", "node2"]
        for node in status["nodes"]:
            assert node["reachable"] is True
            assert node["address"] == str(rehearsal.lab.address(node["name"]))
            assert [container["status"] for container in node["containers"]] == ["running"]
            assert node["gpus"] == 2
            assert len(node["stages"]) == 1
        assert status["server"]["metrics"]["requests_running"] >= 0
        assert rehearsal.clusterctl("status").code == 0

    def test_verify_proves_it_and_is_within_tolerance_of_itself(
        self, up: Ran, rehearsal: Rehearsal, tmp_path: Path
    ) -> None:
        first = rehearsal.clusterctl("verify", "--json", "--output", str(tmp_path / "one"))
        assert first.code == 0
        record = first.json()["record"]
        assert record["problems"] == []
        assert (record["shape"]["tensor_parallel"], record["shape"]["pipeline_parallel"]) == (2, 2)
        assert record["kv_cache"]["tokens"] == record["kv_cache"]["predicted"]
        assert {node["software"]["vllm"] for node in record["nodes"].values()} == {"0.32.0+cpu"}
        assert [engine["reason"] for engine in record["engines"]] == [None]
        outputs = {output["name"]: output for output in record["outputs"]}
        assert list(outputs) == ["greedy", "long prompt", "chat", "streamed", "burst"]
        assert all(len(answer) == 16 for output in outputs.values() for answer in output["answers"])
        assert len(outputs["streamed"]["first_token_s"]) == 5
        json_file, page = first.json()["files"]
        assert record["cluster"] in Path(page).read_text()
        # Speed is not part of this: the tests share two cores.
        again = rehearsal.clusterctl("verify", "--json", "--output", str(tmp_path / "two"), "--compare", json_file)
        matter = [each["what"] for each in again.json()["comparison"]["differences"] if each["matters"]]
        assert set(matter) <= {"time to first token"}
        assert {each["what"] for each in again.json()["comparison"]["same"]} >= {f"output `{name}`" for name in outputs}

    def test_bench_measures_with_vllms_own(self, up: Ran, rehearsal: Rehearsal, tmp_path: Path) -> None:
        asked = ("--shape", "32:8", "--concurrency", "2,4", "--repeat", "1")
        ran = rehearsal.clusterctl("bench", "--json", "--output", str(tmp_path), *asked)
        assert ran.code == 0
        record = ran.json()["record"]
        assert [level["load"]["concurrency"] for level in record["levels"]] == [2, 4]
        for level in record["levels"]:
            (run,) = level["runs"]
            assert (run["completed"], run["failed"]) == (4 * level["load"]["concurrency"], 0)
            assert 0 < run["ttft"]["p50"] <= run["ttft"]["p99"]
        assert Path(ran.json()["files"][1]).read_text().count("<svg") == 3
        key = rehearsal.clusterctl("api-key").out.strip()
        assert key not in ran.out + ran.err
        assert (
            rehearsal.lab.exec("node1", ["docker", "exec", f"{rehearsal.lab.name}-node", "ls", "/tmp"]).count("tmp.")
            == 0
        )

    def test_logs(self, up: Ran, rehearsal: Rehearsal) -> None:
        ran = rehearsal.clusterctl("logs", "--node", "node1")
        assert ran.code == 0
        assert "Application startup complete" in ran.out
        both = rehearsal.clusterctl("logs", "--tail", "1")
        assert {line.split(" | ")[0] for line in both.out.splitlines()} == {"node1", "node2"}

    def test_secrets_are_in_no_argv_environment_or_label(self, up: Ran, rehearsal: Rehearsal) -> None:
        container = f"{rehearsal.lab.name}-node"
        for name in rehearsal.names():
            token = rehearsal.lab.exec(name, ["docker", "exec", container, "cat", "/etc/clusterctl/ray-token"])
            assert len(token) >= 32
            mode = rehearsal.lab.exec(
                name, ["docker", "exec", container, "stat", "-c", "%a", "/etc/clusterctl/ray-token"]
            )
            assert mode.strip() == "600"
            assert token not in rehearsal.lab.exec(name, ["docker", "inspect", container])
            assert token not in rehearsal.lab.exec(name, ["ps", "-eo", "args="])
            assert token not in rehearsal.lab.exec(name, ["docker", "logs", container])

    def test_the_dashboard_is_off_and_the_api_is_private(self, up: Ran, rehearsal: Rehearsal) -> None:
        rows = rehearsal.lab.exec("node1", ["ss", "-Hltn"]).splitlines()
        listening = {row.split()[3] for row in rows}
        assert not [row for row in listening if row.endswith((":8265", ":10001"))]
        assert [row for row in listening if row.endswith(":8000")] == [f"{rehearsal.lab.address('node1')}:8000"]

    def test_prometheus_scrapes_the_agents_and_vllm(self, up: Ran, rehearsal: Rehearsal, tmp_path: Path) -> None:
        if shutil.which("promtool") is None:
            pytest.fail("no promtool: make setup installs Debian's package prometheus")
        watched = rehearsal.clusterctl.with_changes("watched", {"metrics_port": METRICS_PORT})
        assert watched("up", "--json").json()["changed"] is True
        said = watched("metrics", "targets").json()
        until(lambda: METRICS_PORT in rehearsal.listening("node1"), "an agent reads its settings every 2 s")
        page = httpx.get(f"http://{rehearsal.lab.address('node1')}:{METRICS_PORT}/metrics", timeout=30).content
        subprocess.run(["promtool", "check", "metrics"], input=page, check=True, capture_output=True, timeout=60)
        with prometheus(tmp_path, said) as url:
            assert asked(url, "clusterctl_ready == 1")["metric"]["node"] == "node1"
            assert 0 < float(asked(url, "clusterctl_canary_latency_seconds")["value"][1]) < 60
            loading = asked(url, 'clusterctl_start_phase_seconds{phase="loading"}')
            assert float(loading["value"][1]) == pytest.approx(up.json()["timings_s"]["loading"], abs=5)
            assert asked(url, "count(up == 1) == 3")["value"][1] == "3", "two agents, and vLLM's own"
            assert asked(url, 'up{exporter="vllm"} == 1')["metric"]["node"] == "node1"
        assert rehearsal.clusterctl("up").code == 0
        until(lambda: METRICS_PORT not in rehearsal.listening("node1"), "turned off again, and nothing was restarted")

    def test_down_leaves_nothing(self, up: Ran, rehearsal: Rehearsal) -> None:
        ran = rehearsal.clusterctl("down", "--json")
        assert ran.code == 0
        assert ran.json()["removed"] == {name: [f"{rehearsal.lab.name}-node"] for name in ("node1", "node2")}
        nothing_left(rehearsal)
        assert rehearsal.clusterctl("status").code == 4
        assert rehearsal.clusterctl("down").code == 0
        assert rehearsal.clusterctl("plan", "--detailed-exitcode").code == 2


def _wait_for(process: subprocess.Popen[str], text: str) -> str:
    """Read the progress of a running `up` until it says something."""
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"`up` ended without saying {text!r}:\n{seen}")


def _end(process: subprocess.Popen[str]) -> tuple[int, str, float]:
    """Exit code, the rest of stderr, and seconds until it ended."""
    began = time.monotonic()
    _, err = process.communicate(timeout=UP_DEADLINE_S)
    print(err)
    assert "Traceback" not in err.replace("(EngineCore", "").split("Error:")[0]
    return process.returncode, err, time.monotonic() - began


@pytest.fixture
def one_by_two(clean: Rehearsal) -> Rehearsal:
    """The lab with an inventory of one slot a node: half the processes, for starts that are not meant to succeed."""
    return Rehearsal(clean.lab, clean.clusterctl.with_changes("one", {"accelerator.per_node": 1}))


def test_killing_vllm_during_load_ends_up_at_once(one_by_two: Rehearsal) -> None:
    process = one_by_two.clusterctl.started("up")
    _wait_for(process, "engine starting")
    one_by_two.lab.exec("node1", ["pkill", "-KILL", "-f", "vllm serve"])
    code, err, seconds = _end(process)
    assert code == 1
    assert seconds < 20
    assert "node1" in err
    assert "`vllm serve` ended with exit code -9" in err
    nothing_left(one_by_two)


def test_a_worker_container_that_dies_ends_up_at_once(one_by_two: Rehearsal) -> None:
    process = one_by_two.clusterctl.started("up", "--keep")
    _wait_for(process, "starting vLLM")
    one_by_two.lab.exec("node2", ["docker", "kill", f"{one_by_two.lab.name}-node"])
    code, err, seconds = _end(process)
    assert code == 1
    assert seconds < 5
    assert "node2" in err
    assert "exit code 137" in err
    status = one_by_two.clusterctl("status", "--json")
    assert status.code == 3
    assert [c["status"] for c in status.json()["nodes"][1]["containers"]] == ["exited"]


def test_an_interrupted_up_is_explained_and_removed(one_by_two: Rehearsal) -> None:
    process = one_by_two.clusterctl.started("up")
    _wait_for(process, "starting vLLM")
    process.send_signal(signal.SIGINT)
    code, err, seconds = _end(process)
    assert code == 130
    assert seconds < 5
    assert "down" in err
    status = one_by_two.clusterctl("status", "--json")
    assert status.code == 3
    assert status.json()["state"] == "starting"
    assert one_by_two.clusterctl("down").code == 0
    nothing_left(one_by_two)


def test_down_names_a_node_that_it_cannot_reach(one_by_two: Rehearsal) -> None:
    process = one_by_two.clusterctl.started("up")
    _wait_for(process, "starting vLLM")
    process.send_signal(signal.SIGINT)
    _end(process)
    labs.power_off(one_by_two.lab, "node2")
    ran = one_by_two.clusterctl("down")
    assert ran.code == 1
    assert "node2" in ran.err
    assert one_by_two.containers("node1") == []
    assert one_by_two.clusterctl("status").code == 5
    labs.power_on(one_by_two.lab, "node2")
    assert one_by_two.clusterctl("down").code == 0
    nothing_left(one_by_two)


def test_a_server_that_cannot_complete_a_token_is_never_ready(one_by_two: Rehearsal) -> None:
    """lab-facts: with enforce-eager and PP on CPU, /health is 200 and the first completion kills the engine."""
    eager = one_by_two.clusterctl.with_changes(
        "eager", {"accelerator.per_node": 1, "serve.options.enforce-eager": True}
    )
    ran = eager("up")
    assert ran.code == 1
    assert "is up" not in ran.out
    assert "node1" in ran.err
    assert "AssertionError" in ran.err or "completion failed" in ran.err
    nothing_left(one_by_two)
