"""The evidence of real nodes: every piece is there, no secret is, the causes are named, and nothing is left behind."""

from __future__ import annotations

import base64
import json
import stat
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from clusterctl.diagnosis.collect import collect_after_failure
from clusterctl.diagnosis.node import AFTER_FAILURE
from clusterctl.errors import ClusterctlError
from clusterctl.hosts.engine.engine import FileInContainer
from clusterctl.hosts.host import Hosts
from clusterctl.inventory.load import load_inventory
from clusterctl.inventory.model import Inventory
from clusterctl.lab import lab as labs

from .conftest import Ran, Rehearsal

pytestmark = pytest.mark.lab

TOKEN = "0123456789abcdef-ray-token-of-this-test/+"
API_KEY = 'k9-"quoted"-key/of+this\\test'
ENVIRONMENT = "Value.Of=Some&Token"
LOGGED = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123"
SHORT = "p4ss"
SECRETS = (TOKEN, API_KEY, ENVIRONMENT, LOGGED)

WITHIN_S = 8
"""It takes 2 s here when six others want the two cores; its own part is 0.4 s of one."""

SCRIPT = r"""
import json, os, signal, sys, time
def say(line): os.write(1, line.encode() + b"\n")
token = open("/etc/clusterctl/ray-token").read().strip()
say("INFO starting with " + token)
say("non-default args: {'model': '/models/tiny', 'api_key': ['" + os.environ["LOGGED"] + "'], 'port': 8000}")
# A line over 16 KiB: the engine writes it in parts, and the second part begins in the middle of the token.
say("x" * (16 * 1024 - len(token) // 2) + token + "y" * 20000)
say("HF_TOKEN=" + os.environ["HF_TOKEN"] + " DB_PASSWORD=" + os.environ["DB_PASSWORD"])
os.makedirs("/tmp/ray/session_2026/logs", exist_ok=True)
os.symlink("/tmp/ray/session_2026", "/tmp/ray/session_latest")
open("/tmp/ray/session_2026/logs/raylet.out", "w").write("token " + token + "\nthe raylet's last words\n")
for line in sys.argv[1:]:
    say(line)
    time.sleep(0.05)
os.write(2, (json.dumps({"event": "phase", "t": time.time(), "phase": "failed", "saw": token}) + "\n").encode())
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if os.environ["STAYS"] == "1":
    signal.pause()
sys.exit(1)
"""

TRUNCATED = "(RayWorkerProc pid=9, ip=10.0.0.2) safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer"  # noqa: E501
DEAD = "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue."


@contextmanager
def hosts_of(rehearsal: Rehearsal) -> Iterator[tuple[Hosts, Inventory]]:
    found = load_inventory(rehearsal.clusterctl.inventory)
    with Hosts(found) as hosts:
        yield hosts, found


def start(
    nodes: tuple[Hosts, Inventory],
    node: str,
    *lines: str,
    stays: bool = False,
    state: Mapping[str, object] | None = None,
) -> None:
    """A container as the cluster's, of the lab's image, that says what a real one says, and more than it should."""
    hosts, found = nodes
    engine, cluster = hosts.connected[node].engine, found.cluster
    labels = {
        "clusterctl.cluster": cluster,
        "clusterctl.role": "head" if node == found.head_name else "worker",
    }
    environment = {"HF_TOKEN": ENVIRONMENT, "LOGGED": LOGGED, "DB_PASSWORD": SHORT, "STAYS": str(int(stays))}
    config = {
        "image": found.container.image,
        "entrypoint": ["python3", "-u", "-c", SCRIPT],
        "command": list(lines),
        "environment": environment,
        "labels": labels,
    }
    container = engine.create(f"{cluster}-node", config, {"network_mode": "host"})
    files = [
        FileInContainer("/etc/clusterctl/ray-token", TOKEN.encode(), 0o600),
        FileInContainer("/etc/clusterctl/api-key", API_KEY.encode(), 0o600),
        FileInContainer("/etc/clusterctl/spec.json", json.dumps({"environment": environment}).encode()),
        FileInContainer("/etc/clusterctl/vllm.yaml", f"model: /models/tiny\napi-key: {LOGGED}\n".encode()),
        FileInContainer("/run/clusterctl/state.json", json.dumps(state or {"phase": "ray"}).encode()),
    ]
    engine.put_files(container, files)
    engine.start(container)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        said = b"".join(chunk.data for chunk in engine.logs(container, follow=False) if chunk.stream == "stderr")
        if b'"event"' in said:
            return
        time.sleep(0.1)
    raise AssertionError(f"{node}: the container said nothing")


def unpacked(path: Path, into: Path) -> Path:
    with tarfile.open(path) as tar:
        names = tar.getnames()
        tar.extractall(into, filter="data")
    top = {name.partition("/")[0] for name in names}
    assert len(top) == 1
    assert names[0] == f"{names[0].partition('/')[0]}/README.txt"
    return into / top.pop()


def assert_no_secret(data: bytes, where: object) -> None:
    for secret in SECRETS:
        forms = [secret, quote(secret, safe=""), json.dumps(secret)[1:-1], base64.b64encode(secret.encode()).decode()]
        for form in forms:
            assert form.encode() not in data, (where, secret)
    assert f"={SHORT}".encode() not in data, where
    assert f'"{SHORT}"'.encode() not in data, where


def assert_clean(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            assert_no_secret(file.read_bytes(), file)


def left_behind(rehearsal: Rehearsal) -> list[Path]:
    return sorted(rehearsal.clusterctl.inventory.parent.glob("clusterctl-*"))


def bundle_of(ran: Ran) -> Path:
    last = ran.out.rstrip().splitlines()[-1]
    assert last.startswith("bundle: ")
    return Path(last.removeprefix("bundle: "))


def test_a_failed_cluster_with_a_node_without_power(clean: Rehearsal, tmp_path: Path) -> None:
    failed = {"phase": "failed", "ready": False, "reason": "server-exited", "detail": "`vllm serve` ended with code 0"}
    with hosts_of(clean) as nodes:
        start(nodes, "node1", TRUNCATED, DEAD, state=failed)
        start(nodes, "node2", stays=True)
    labs.power_off(clean.lab, "node2")
    before = left_behind(clean)
    ran = clean.clusterctl("diagnose")
    assert ran.code == 1
    path = bundle_of(ran)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [new for new in left_behind(clean) if new not in before] == [path]
    folder = unpacked(path, tmp_path)
    assert_clean(folder)
    assert_no_secret((ran.out + ran.err).encode(), "terminal")

    readme = (folder / "README.txt").read_text()
    ranked = [line for line in readme.splitlines() if line[:1].isdigit() and ". " in line[:4]]
    assert "[node-unreachable] node2" in ranked[0]
    known = ["model-file-damaged", "worker-died"]
    assert [name for line in ranked for name in known if f"[{name}]" in line] == known
    assert next(line for line in ranked if "[worker-died]" in line).split(". ")[1].startswith("consequence")
    assert next(line for line in ranked if "[server-exited]" in line).split(". ")[1].startswith("consequence")
    assert "MetadataIncompleteBuffer" in readme
    assert "not reached: node2" in readme

    inside = folder / f"nodes/node1/containers/{clean.lab.spec.name}-node"
    assert sorted(file.name for file in (inside / "etc/clusterctl").iterdir()) == ["spec.json", "vllm.yaml"]
    assert (inside / "ray/raylet.out").read_text() == "token ***\nthe raylet's last words\n"
    log = (inside / "stdout.log").read_text()
    assert f"{'x' * 100}***{'y' * 100}" in log, "the line that the engine split is whole"
    assert json.loads((inside / "inspect.json").read_text())["Config"]["Labels"]["clusterctl.role"] == "head"
    for file in ("engine-info.json", "engine-version.json", "ip-addr.txt", "ports.txt", "df.txt", "free.txt"):
        assert (folder / "nodes/node1" / file).read_text().strip()
    for file in ("facts.json", "findings.txt", "inventory.yaml", "manifest.json"):
        assert (folder / file).read_text().strip()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert "nvidia-smi" in next(missed["what"] for missed in manifest["missed"] if missed["node"] == "node1")


def test_a_healthy_cluster_and_one_that_is_down(clean: Rehearsal, tmp_path: Path) -> None:
    ran = clean.clusterctl("diagnose", "--no-bundle")
    assert ran.code == 0
    assert "down: no container of this cluster" in ran.out
    serving = {"phase": "serving", "ready": True}
    with hosts_of(clean) as nodes:
        start(nodes, "node1", DEAD, stays=True, state=serving)
        start(nodes, "node2", stays=True)
    target = tmp_path / "mine.tar.gz"
    ran = clean.clusterctl("diagnose", "--json", "--output", str(target))
    assert ran.code == 0
    assert ran.json()["path"] == str(target)
    assert ran.json()["causes"] == []
    sent = clean.clusterctl("diagnose", "--json", str(target))
    assert (sent.code, sent.json()["situation"], sent.json()["causes"]) == (0, ran.json()["situation"], [])
    again = clean.clusterctl("diagnose", "--output", str(target))
    assert again.code == 1
    assert "exists" in again.err
    assert target.exists()


def test_after_a_failed_start_it_takes_seconds_and_ends_in_a_sentence(
    clean: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with hosts_of(clean) as nodes:
        start(nodes, "node1", TRUNCATED)
        start(nodes, "node2", stays=True)
        began = time.monotonic()
        said = collect_after_failure(*nodes, ClusterctlError(f"node1: it failed, token {TOKEN}"), None)
        assert time.monotonic() - began < WITHIN_S
    (path,) = tmp_path.iterdir()
    assert str(path) in said
    folder = unpacked(path, tmp_path / "unpacked")
    assert_clean(folder)
    assert (folder / "error.txt").read_text() == "node1: it failed, token ***\n"


def test_a_node_that_lost_its_power_after_the_connection_was_opened(
    clean: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with hosts_of(clean) as nodes:
        start(nodes, "node1", TRUNCATED)
        labs.power_off(clean.lab, "node2")
        began = time.monotonic()
        said = collect_after_failure(*nodes, "it failed", None)
        assert time.monotonic() - began < AFTER_FAILURE.total_s + WITHIN_S
    assert "without node2: not reached" in said
    (path,) = tmp_path.iterdir()
    readme = (unpacked(path, tmp_path / "unpacked") / "README.txt").read_text()
    assert "1. certain [node-unreachable] node2" in readme
    assert "2. likely [model-file-damaged] node1" in readme


def test_where_it_cannot_be_written(clean: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "missing/bundle.tar.gz"
    ran = clean.clusterctl("diagnose", "--output", str(missing))
    assert ran.code == 1
    assert "cannot write" in ran.err
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with hosts_of(clean) as nodes:
        said = collect_after_failure(*nodes, "it failed", None)
    assert said.startswith("no evidence could be collected")


def test_an_engine_that_hangs_holds_up_nobody(
    clean: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with hosts_of(clean) as nodes:
        start(nodes, "node1", TRUNCATED)
    pids = clean.lab.exec("node2", ["pgrep", "-x", "dockerd"]).split()
    clean.lab.exec("node2", ["kill", "-STOP", *pids])
    try:
        with hosts_of(clean) as nodes:
            began = time.monotonic()
            said = collect_after_failure(*nodes, "it failed", None)
            assert time.monotonic() - began < 35
        (path,) = tmp_path.glob("*.tar.gz")
        assert str(path) in said
        readme = (unpacked(path, tmp_path / "unpacked") / "README.txt").read_text()
        assert "[model-file-damaged] node1" in readme
        assert "node2: containers: no answer" in readme
    finally:
        clean.lab.exec("node2", ["kill", "-CONT", *pids])
