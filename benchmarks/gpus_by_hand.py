"""The start by hand, for gpus_of_host.py: what somebody without clusterctl would type on each node. Image, environment,
devices and vLLM's options are the same, so that only who started it differs."""

from __future__ import annotations

import json
import shlex
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clusterctl.agent.paths import SERVER_CONFIG_PATH, container_name

NAME = "by-hand"
RATES = ("output_tokens_per_s", "median_ttft_ms")
"""What is compared."""


@dataclass(frozen=True)
class Node:
    """A node, as it is reached without clusterctl."""

    name: str
    login: tuple[str, ...]
    """`ssh` with its options, up to the host."""

    def shell(self, *words: str, limit_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run there; exit code 124 when it was ended by the limit."""
        argv = [*self.login, shlex.join(words)]
        try:
            return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=limit_s)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(argv, 124, "", f"no answer in {limit_s:g} s")


def nodes_of(inventory: Path) -> tuple[Node, ...]:
    """Those of the inventory, the head first, with the lab's key and host keys."""
    data = yaml.safe_load(inventory.read_text())
    here, ssh = inventory.parent, data["ssh"]
    options = ("-q", "-i", str(here / ssh["key"]), "-o", f"UserKnownHostsFile={here / ssh['known_hosts']}")
    return tuple(
        Node(each["name"], ("ssh", *options, "-o", "BatchMode=yes", f"{ssh['user']}@{each['host']}"))
        for each in data["nodes"]
    )


def started_like(node: Node, cluster: str) -> tuple[str, ...]:
    """The `docker run` for this node: with what clusterctl's running container there has, less clusterctl."""
    name = container_name(cluster)
    said = node.shell("docker", "inspect", name)
    if said.returncode:
        raise ValueError(f"{node.name}: {said.stderr.strip()}")
    found = json.loads(said.stdout)[0]
    config = node.shell("docker", "exec", name, "cat", SERVER_CONFIG_PATH)
    image = found["Config"]["Image"]
    return (
        *("docker", "run", "--detach", "--name", NAME, *host_flags(found["HostConfig"])),
        *(word for each in found["Config"]["Env"] for word in ("--env", each)),
        *("--entrypoint", "vllm", image, "serve", *serve_flags(yaml.safe_load(config.stdout))),
    )


def host_flags(host: Mapping[str, Any]) -> Iterator[str]:
    """HostConfig of Docker's API as flags of `docker run`."""
    yield from ("--network", host["NetworkMode"], "--ipc", host["IpcMode"])
    if host["IpcMode"] == "private":
        yield from ("--shm-size", str(host["ShmSize"]))
    for limit in host["Ulimits"] or ():
        yield from ("--ulimit", f"{limit['Name']}={limit['Soft']}:{limit['Hard']}")
    for capability in host["CapAdd"] or ():
        yield from ("--cap-add", capability)
    for bind in host["Binds"] or ():
        yield from ("--volume", bind)
    for request in host["DeviceRequests"] or ():
        for device in request["DeviceIDs"] or ():
            yield from ("--device", device)


def serve_flags(config: Mapping[str, Any]) -> Iterator[str]:
    """vLLM's file of options as a command line."""
    yield str(config["model"])
    for name, value in config.items():
        if name == "model" or value is False or value is None:
            continue
        yield f"--{name}"
        if value is not True:
            yield json.dumps(value) if isinstance(value, dict) else str(value)


def start(nodes: Sequence[Node], commands: Mapping[str, Sequence[str]]) -> str:
    """On every node, the head last. Returns what went wrong, or nothing."""
    for node in reversed(nodes):
        done = node.shell(*commands[node.name])
        if done.returncode:
            return f"{node.name}: {done.stderr.strip()[-500:]}"
    return ""


def stop(nodes: Sequence[Node], logs: Path) -> None:
    """Keep the containers' logs, and remove them."""
    for node in nodes:
        done = node.shell("docker", "logs", NAME)
        logs.with_name(f"{logs.name}_{node.name}.log").write_text(done.stdout + done.stderr)
    for node in nodes:
        node.shell("docker", "rm", "--force", NAME)


def wait_for(head: Node, limit_s: float, answers: Callable[[], bool]) -> float | None:
    """Seconds until `answers()`; None where the head's container ended before, or the limit was reached."""
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        if answers():
            return round(time.monotonic() - began, 1)
        running = head.shell("docker", "inspect", "--format", "{{.State.Running}}", NAME)
        if running.returncode == 0 and running.stdout.strip() != "true":
            return None
        time.sleep(0.5)
    return None


def compared(ours: Sequence[Mapping[str, Any]], hand: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Both sides' medians of each rate, their ratio, and whether ours lies within the spread of the start by hand."""
    found: dict[str, Any] = {}
    for rate in RATES:
        one, other = [row[rate] for row in ours if rate in row], [row[rate] for row in hand if rate in row]
        if not one or not other:
            continue
        ratio = statistics.median(one) / statistics.median(other)
        within = min(other) <= statistics.median(one) <= max(other)
        found[rate] = {"clusterctl": one, "by_hand": other, "ratio": round(ratio, 3), "within_spread": within}
    return found
