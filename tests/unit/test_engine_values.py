"""What the door to the engine gives out and takes in: values made of Docker's answers, its own words for hints."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import docker.types
import pytest

from clusterctl.hosts.engine import bodies
from clusterctl.hosts.engine.answers import container_of, image_of, info_of, unix_time, version_of
from clusterctl.hosts.engine.commands import DOCKER, EngineCommands
from tests.house import House

INSPECTED: Mapping[str, Any] = {
    "Id": "4f" * 32,
    "Name": "/demo-node",
    "Created": "2026-01-02T03:04:00.000000001Z",
    "RestartCount": 2,
    "State": {
        "Status": "exited",
        "Running": False,
        "Paused": False,
        "Restarting": False,
        "OOMKilled": True,
        "Dead": False,
        "Pid": 0,
        "ExitCode": 137,
        "Error": "no such device",
        "StartedAt": "2026-01-02T03:04:05.678901234Z",
        "FinishedAt": "2026-01-02T03:05:05.678901234Z",
    },
    "Config": {"Labels": {"clusterctl.role": "head"}},
    "HostConfig": {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 0}},
}
"""Of Docker 20.10, shortened."""


def test_a_container_is_a_value() -> None:
    found = container_of(INSPECTED)
    assert (found.id, found.name, found.labels) == ("4f" * 32, "demo-node", {"clusterctl.role": "head"})
    assert (found.status, found.running, found.restarting) == ("exited", False, False)
    assert (found.exit_code, found.oom_killed, found.error) == (137, True, "no such device")
    assert (found.restart_policy, found.restart_count) == ("always", 2)
    assert (found.created_at, found.started_at) == ("2026-01-02T03:04:00.000000001Z", "2026-01-02T03:04:05.678901234Z")
    assert found.started_t == 1767323045.678901
    assert found.raw == INSPECTED, "kept as it is, for evidence"
    assert "HostConfig" not in repr(found), "what may hold secrets is not in what is printed of it"


def test_a_container_of_which_the_engine_says_little() -> None:
    state = {"Status": "created", "Running": False, "StartedAt": "0001-01-01T00:00:00Z"}
    found = container_of({"Id": "a", "Name": "/b", "State": state, "Config": {"Labels": None}, "HostConfig": None})
    assert (found.labels, found.exit_code, found.oom_killed, found.error) == ({}, 0, False, "")
    assert (found.restart_policy, found.restart_count, found.created_at) == ("no", 0, "")
    assert found.started_t is None, "never"


@pytest.mark.parametrize(
    ("text", "t"),
    [
        ("2026-01-02T03:04:05Z", 1767323045.0),
        ("2026-01-02T03:04:05.5Z", 1767323045.5),
        ("2026-01-02T04:04:05.678901234+01:00", 1767323045.678901),
        ("2026-01-02T03:04:05", 1767323045.0),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
        ("yesterday", None),
    ],
)
def test_the_engines_times(text: str, t: float | None) -> None:
    assert unix_time(text) == t


def test_an_image_is_its_id_and_its_layers() -> None:
    found = image_of({"Id": "sha256:1", "RepoTags": ["vllm:1"], "RootFS": {"Type": "layers", "Layers": ["a", "b"]}})
    assert (found.id, found.layers) == ("sha256:1", ("a", "b"))
    assert image_of({"Id": "sha256:1", "RootFS": None}).layers == ()


def test_what_the_engine_says_of_itself() -> None:
    raw = {
        "ServerVersion": "20.10.24",
        "CgroupDriver": "systemd",
        "Runtimes": {"runc": {}, "nvidia": {}},
        "DockerRootDir": "/var/lib/docker",
        "SystemTime": "2026-01-02T03:04:05Z",
    }
    found = info_of(raw)
    assert (found.version, found.cgroup_driver, found.runtimes) == ("20.10.24", "systemd", ("nvidia", "runc"))
    assert (found.data_root, found.time, found.raw) == ("/var/lib/docker", "2026-01-02T03:04:05Z", raw)
    assert info_of({"Runtimes": None}).runtimes == ()
    assert version_of({"ApiVersion": "1.41", "Os": "linux"}).api == "1.41"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (bodies.ulimit("nofile", 10, -1), docker.types.Ulimit(name="nofile", soft=10, hard=-1)),
        (bodies.gpu_request(8), docker.types.DeviceRequest(count=8, capabilities=[["gpu"]])),
        (
            bodies.bind_mount("/s", "/t", read_only=True),
            docker.types.Mount(target="/t", source="/s", type="bind", read_only=True),
        ),
        (
            bodies.bind_mount("/s", "/t", read_only=False),
            docker.types.Mount(target="/t", source="/s", type="bind", read_only=False),
        ),
    ],
)
def test_flags_are_recorded_as_the_sdk_writes_them(ours: object, theirs: object) -> None:
    """Byte for byte: it is what containers that run were recorded with."""
    assert json.dumps(ours) == json.dumps(theirs)


def test_commands_are_said_with_the_engines_own_words() -> None:
    assert DOCKER.pull("vllm:1") == "docker pull vllm:1"
    assert DOCKER.copy("vllm:1", "NODE") == "docker save vllm:1 | ssh NODE docker load"
    assert DOCKER.run("vllm:1 --version") == "docker run --rm vllm:1 --version"
    assert DOCKER.remove("demo-node") == "docker rm -f demo-node"
    assert DOCKER.status == "systemctl status docker"
    other = EngineCommands("podman", "podman", "/run/podman/podman.sock")
    assert other.unpause("demo-node") == "podman unpause demo-node"
    assert other.journal == "journalctl -u podman -n 50"
    assert other.running == "podman ps"
    assert other.edit == "systemctl edit podman"
    assert other.restart_all == "systemctl restart containerd podman"
    assert other.give_gpus == "nvidia-ctk runtime configure --runtime=podman"


SPELLED = re.compile(r"(?<![\w/.-])docker [a-z-]|(?:systemctl|journalctl) [^;,|]*\bdocker\b")


def test_hints_take_commands_from_the_engine() -> None:
    assert {file for file, text in texts() if SPELLED.search(text)} == set()


def texts() -> Iterator[tuple[str, str]]:
    """The strings of every file outside the engine's door and the lab, docstrings left out."""
    for file, tree in House().files.items():
        if file.startswith(("hosts/engine/", "lab/")):
            continue
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
                yield file, node.value
