"""A cluster that serves, and what happens to real machines: it serves again, and nobody has typed anything.

Three faults of those in faults.py; benchmarks/faults_while_serving.py has all of them, with their times.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clusterctl.lab.commands import CommandError

from .conftest import Clusterctl, Ran, Rehearsal
from .during_up import left_behind
from .faults import Knocks, Load, Recovery, suffer, while_serving

pytestmark = [pytest.mark.lab, pytest.mark.starts]

RECOVERY_DEADLINE_S = 400
CHANGES = {
    "accelerator.per_node": 1,
    "timeouts.canary_interval_s": 2,
    "timeouts.hang_s": 20,
    "timeouts.drain_s": 20,
}


@dataclass(frozen=True)
class Serving:
    """A cluster that serves, and the means to ask it."""

    rehearsal: Rehearsal
    clusterctl: Clusterctl
    summary: dict[str, Any]
    key: str

    def load(self) -> Load:
        return Load(self.summary["endpoint"], self.summary["model"], self.key)

    @contextmanager
    def log_of(self, node: str, into: Path) -> Iterator[Path]:
        """What `logs --follow` says meanwhile, from now on; Ctrl-C ends it."""
        words = self.clusterctl.argv("logs", "--follow", "--tail", "0", "--node", node)
        with into.open("w") as out:
            process = subprocess.Popen(words, stdout=out, stderr=subprocess.PIPE, text=True)
            try:
                yield into
                assert process.poll() is None, "it ends only with the container"
            finally:
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=30)
        assert process.returncode == 130, said

    def events(self, node: str) -> list[dict[str, Any]]:
        """What the node's agent has said; `t` is this machine's monotonic clock."""
        lab = self.rehearsal.lab
        said = lab.exec(node, ["sh", "-c", f"docker logs {lab.name}-node 2>&1 >/dev/null"]).splitlines()
        events = [json.loads(line) for line in said if line.startswith('{"event":')]
        return [{**each, "t": each["t"] - (time.time() - time.monotonic())} for each in events]

    def restarts(self) -> list[tuple[str, str, str]]:
        """Node, scope, reason, in order of time."""
        status = self.clusterctl("status", "--json").json()
        found = [
            (each["t"], node["name"], each["scope"], each["reason"])
            for node in status["nodes"]
            for container in node["containers"]
            for each in container["restarts"]
        ]
        return [(name, scope, reason) for _, name, scope, reason in sorted(found)]


@pytest.fixture(scope="module")
def serving(rehearsal: Rehearsal) -> Iterator[Serving]:
    """One start for all tests of this file; they follow each other as faults do in a bad week."""
    clusterctl = rehearsal.clusterctl.with_changes("healing", CHANGES)
    ran: Ran = clusterctl("up", "--json")
    assert ran.code == 0
    yield Serving(rehearsal, clusterctl, ran.json(), clusterctl("api-key").out.strip())
    clusterctl("down")


def test_no_secret_is_where_it_is_not_documented(serving: Serving) -> None:
    """The API key and Ray's token, searched for on the nodes and in everything that clusterctl prints."""
    lab, clusterctl, key = serving.rehearsal.lab, serving.clusterctl, serving.key
    container = f"{lab.name}-node"
    token = lab.exec("node1", ["docker", "exec", container, "cat", "/etc/clusterctl/ray-token"]).strip()
    assert min(len(key), len(token)) >= 32
    texts = {"up": json.dumps(serving.summary)}
    for words in (("plan", "--json"), ("status", "--json"), ("logs",), ("history", "--json"), ("check", "--json")):
        done = clusterctl(*words)
        texts[" ".join(words)] = done.out + done.err
    texts["diagnose"] = clusterctl("diagnose", "--output", "healthy.tar.gz").out
    bundle = clusterctl.inventory.parent / "healthy.tar.gz"
    with tarfile.open(bundle) as archive:
        for member in archive:
            content = archive.extractfile(member)
            texts[f"bundle: {member.name}"] = content.read().decode(errors="replace") if content else ""
    bundle.unlink()
    for node in serving.rehearsal.names():
        texts |= {f"{node} {what}": lab.exec(node, argv) for what, argv in looks(container).items()}
        held = lab.exec(node, ["sh", "-c", ENVIRONMENTS])
        holders = [line for line in held.splitlines() if key in line]
        assert all("VLLM_API_KEY=" in line for line in holders)
        assert not [line for line in holders if "ray::" in line or "raylet" in line or "gcs_server" in line]
        assert bool(holders) == (node == "node1"), "the server has the key, and no other node's process"
        assert token not in held
    for where, text in texts.items():
        assert not [secret for secret in (key, token) if secret in text], where
    files = {
        node: sorted(lab.exec(node, ["docker", "exec", container, "sh", "-c", FILES_WITH, key, token]).split())
        for node in serving.rehearsal.names()
    }
    assert files == {
        "node1": ["/etc/clusterctl/api-key", "/etc/clusterctl/ray-token"],
        "node2": ["/etc/clusterctl/ray-token"],
    }


FAULTS = {
    "vLLM engine SIGSTOPped": ("node1", "server-hangs"),
    "head container killed": ("node1", "container-ended"),
    "worker node off, on after 15 s": ("node2", "container-ended"),
}
"""Fault → the node and the reason that `status` shows for it."""


def agent_lived(new: Sequence[tuple[str, str, str]]) -> bool:
    """Whether the head's agent lived through these restarts. Failures in a row escalate: more than the server is
    restarted by way of the agent's end, and for that second nobody answers on the API's port."""
    return all(scope == "server" for node, scope, _ in new if node == "node1")


@pytest.mark.parametrize("name", FAULTS)
def test_it_serves_again_by_itself(serving: Serving, name: str, tmp_path: Path) -> None:
    fault = while_serving(serving.rehearsal.lab.name)[name]
    before = len(serving.restarts())
    with serving.log_of("node1", tmp_path / "log") as log, serving.load() as load:
        result: Recovery = suffer(serving.rehearsal.lab, fault, load, RECOVERY_DEADLINE_S)
        load.wait(lambda: '"phase": "serving"' in log.read_text(), 10, "word of it in the log that is followed")
    print(result)
    assert result.outage_s < RECOVERY_DEADLINE_S
    new = serving.restarts()[before:]
    assert result.refused == 0 or not agent_lived(new), "while no server listens, the agent answers"
    node, reason = FAULTS[name]
    assert (node, reason) in [(at, why) for at, _, why in new]
    status = serving.clusterctl("status")
    assert (status.code, "healthy" in status.out) == (0, True)
    assert f"[{reason}]" in status.out
    if reason == "server-hangs":
        assert "is stopped by a signal" in status.out, "the agent has seen it before it killed the server"
    assert serving.clusterctl("plan", "--detailed-exitcode").code == 0


def test_up_in_the_middle_of_a_recovery_waits_for_it(serving: Serving) -> None:
    before = len(serving.restarts())
    containers = [serving.rehearsal.lab.exec(n, ["docker", "ps", "-q"]) for n in serving.rehearsal.names()]
    with Knocks(serving.summary["endpoint"]) as knocks:
        serving.rehearsal.lab.exec("node1", ["pkill", "-KILL", "-f", "clusterctl_agent server"])
        deadline = time.monotonic() + 20
        while (status := serving.clusterctl("status", "--json")).json()["state"] != "recovering":
            assert time.monotonic() < deadline
        assert status.code == 3
        assert "no server listens" in json.dumps(status.json()["server"]), "the agent's 503 is no answer of the server"
        ran = serving.clusterctl("up", "--json")
        assert ran.code == 0
    assert knocks.of("503"), "the agent answers while the server loads"
    assert knocks.met[-1][1] == "200"
    assert knocks.of("refused") == [] or not agent_lived(serving.restarts()[before:])
    assert ran.json()["changed"] is False
    assert [serving.rehearsal.lab.exec(n, ["docker", "ps", "-q"]) for n in serving.rehearsal.names()] == containers


def test_a_server_option_restarts_only_the_server_and_a_bad_one_is_taken_back(serving: Serving) -> None:
    """Another option, requests that end first, and an option that vLLM refuses."""
    lab, clusterctl = serving.rehearsal.lab, serving.rehearsal.clusterctl
    ids = [lab.exec(n, ["docker", "ps", "-q"]) for n in serving.rehearsal.names()]
    other = clusterctl.with_changes("other", {**CHANGES, "serve.options.max-num-seqs": 8})
    plan = other("plan", "--json").json()
    assert [node["action"] for node in plan["nodes"]] == ["restart-server", "keep"]
    with Load(serving.summary["endpoint"], serving.summary["model"], serving.key, tokens=400) as load:
        load.wait(lambda: len(load.asked) > 4, 60, "long requests")
        ran = other("up", "--json")
        assert ran.code == 0
    none_was_lost(serving, load, "draining")
    assert [lab.exec(n, ["docker", "ps", "-q"]) for n in serving.rehearsal.names()] == ids
    assert other("plan", "--detailed-exitcode").code == 0

    bad = clusterctl.with_changes("bad", {**CHANGES, "serve.options.no-such-option": 3})
    ran = bad("up")
    assert ran.code == 1
    assert "no-such-option" in ran.err
    assert "has its old options again, and serves" in ran.err
    assert [lab.exec(n, ["docker", "ps", "-q"]) for n in serving.rehearsal.names()] == ids
    assert other("plan", "--detailed-exitcode").code == 0
    assert other("status").code == 0


def test_a_person_who_stops_the_heads_container_loses_no_running_request(serving: Serving) -> None:
    """And it stays stopped until a person, or a boot, starts it; then it serves again."""
    lab, container = serving.rehearsal.lab, f"{serving.rehearsal.lab.name}-node"
    summary, before = serving.summary, len(serving.restarts())
    with Load(summary["endpoint"], summary["model"], serving.key, tokens=400) as load:
        load.wait(lambda: len(load.asked) > 4, 60, "long requests")
        lab.exec("node1", ["docker", "stop", "--time", "60", container])
    none_was_lost(serving, load, "stopping")
    assert serving.clusterctl("status").code == 3
    lab.exec("node1", ["docker", "start", container])
    with serving.load() as load:
        load.wait(lambda: any(each.error is None for each in load.asked), RECOVERY_DEADLINE_S, "completion")
    new = serving.restarts()[before:]
    assert ("node1", "container", "started-again") in new
    assert {reason for _, _, reason in new} <= {"started-again", "head-lost", "ray-exited"}


def none_was_lost(serving: Serving, load: Load, phase: str) -> None:
    """Requests that ran when the head's agent last entered a phase have all been answered."""
    moment = max(each["t"] for each in serving.events("node1") if each.get("phase") == phase)
    running = [each for each in load.asked if each.began < moment < each.began + each.seconds]
    assert running
    assert [each.error for each in running if each.error] == [], "running requests end"


def test_a_hang_is_explained_while_it_lasts(serving: Serving) -> None:
    """A rank on the other node is stopped; `diagnose` names it. It goes on before anybody ends the server, or the agent
    was faster on a loaded machine, and a new one comes: no other fault follows, since failures in a row escalate."""
    lab = serving.rehearsal.lab
    rank = ["pkill", "-STOP", "-f", "ray::RayWorkerProc"]
    lab.exec("node2", rank)
    try:
        with serving.load():
            ran = serving.clusterctl("diagnose", "--json", "--no-bundle")
    finally:
        with contextlib.suppress(CommandError):  # the rank has been ended meanwhile
            lab.exec("node2", [word.replace("STOP", "CONT") for word in rank])
    assert ran.code == 1
    found = ran.json()
    assert found["situation"].startswith("not serving: completions hang")
    first = found["causes"][0]
    assert (first["certainty"], first["code"], first["nodes"]) == ("certain", "hang", ["node2"])
    assert "(ray::RayWorkerProc" in first["meaning"]
    assert "rank 1, " in first["meaning"]
    assert "stopped by a signal" in first["meaning"]
    with serving.load() as load:
        load.wait(lambda: any(each.error is None for each in load.asked), RECOVERY_DEADLINE_S, "completion")
    healthy = serving.clusterctl("diagnose", "--json", "--no-bundle")
    assert "hang" not in [cause["code"] for cause in healthy.json()["causes"]]


def test_down_ends_healing_too(serving: Serving) -> None:
    assert serving.clusterctl("down").code == 0
    time.sleep(2)
    assert left_behind(serving.rehearsal.lab, serving.rehearsal.lab.name) == []


def looks(container: str) -> dict[str, list[str]]:
    """What is looked at on a node → the command that shows it."""
    return {
        "argv": ["ps", "-eo", "args="],
        "inspect": ["docker", "inspect", container],
        "logs": ["sh", "-c", f"docker logs {container} 2>&1"],
        "state": ["docker", "exec", container, "cat", "/run/clusterctl/state.json", "/etc/clusterctl/spec.json"],
    }


FILES_WITH = 'grep -rlF -e "$0" -e "$1" /etc /run /tmp /root /opt/clusterctl 2>/dev/null || true'
ENVIRONMENTS = (
    "for p in /proc/[0-9]*; do printf '%s: ' \"$(tr '\\0' ' ' <$p/cmdline 2>/dev/null | cut -c1-200)\"; "
    "tr '\\0' ' ' <$p/environ 2>/dev/null; echo; done"
)
"""A line for each process: its arguments and its environment."""
