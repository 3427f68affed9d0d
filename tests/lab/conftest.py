"""A lab for the tests: real sshd, real Docker Engine, real Ray, real vLLM, on this machine. Needs root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusterctl.lab import lab as labs
from clusterctl.lab.lab import Lab, LabOptions

UP_DEADLINE_S = 600
"""A start takes one to two minutes on two cores; a test that waits longer than this hangs."""
SOON_S = 60
"""For what happens within seconds on a machine that does nothing else."""


def until(true: Callable[[], bool], what: str) -> None:
    """Wait for it; an assertion says `what` where it does not come."""
    deadline = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@dataclass(frozen=True)
class Ran:
    """What a command line ended with."""

    code: int
    out: str
    err: str
    seconds: float

    def json(self) -> Any:
        return json.loads(self.out)


class Clusterctl:
    """The command line under test, as an operator runs it."""

    def __init__(self, inventory: Path) -> None:
        self.inventory = inventory

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "clusterctl", "-i", str(self.inventory), *words]

    def __call__(self, *words: str, timeout_s: float = UP_DEADLINE_S) -> Ran:
        began = time.monotonic()
        done = subprocess.run(
            self.argv(*words), capture_output=True, text=True, timeout=timeout_s, check=False, cwd=self.inventory.parent
        )
        ran = Ran(done.returncode, done.stdout, done.stderr, time.monotonic() - began)
        print(f"$ clusterctl {' '.join(words)}   -> {ran.code} in {ran.seconds:.1f} s\n{ran.out}{ran.err}")
        assert "Traceback" not in ran.out + ran.err
        return ran

    def started(self, *words: str) -> subprocess.Popen[str]:
        """The same, not waited for."""
        return subprocess.Popen(
            self.argv(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.inventory.parent
        )

    def with_changes(self, name: str, changes: Mapping[str, Any]) -> Clusterctl:
        """The same cluster with another inventory: {"serve.port": 8001}."""
        data = yaml.safe_load(self.inventory.read_text())
        for path, value in changes.items():
            *parents, last = path.split(".")
            place = data
            for key in parents:
                place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
            place[last] = value
        changed = self.inventory.parent / f"{name}.yaml"
        changed.write_text(yaml.safe_dump(data, sort_keys=False))
        return Clusterctl(changed)


@dataclass(frozen=True)
class Rehearsal:
    """A lab and the command line for it."""

    lab: Lab
    clusterctl: Clusterctl

    def containers(self, node: str) -> list[str]:
        """Names of all containers on a node, running or not, asked of the node itself."""
        return self.lab.exec(node, ["docker", "ps", "-a", "--format", "{{.Names}}"]).split()

    def processes(self, node: str) -> list[str]:
        """Command lines of all processes in a node."""
        return [line for line in self.lab.exec(node, ["ps", "-eo", "args="]).splitlines() if line.strip()]

    def listening(self, node: str) -> set[int]:
        """TCP ports that are listened on in a node."""
        rows = self.lab.exec(node, ["ss", "-Hltn"]).splitlines()
        return {int(row.split()[3].rsplit(":", 1)[1]) for row in rows}

    @contextmanager
    def stranger(self, node: str, port: int) -> Iterator[int]:
        """A process on a node that listens on a port and has nothing to do with us. Yields its pid there."""
        script = f"import os, signal, socket; s = socket.create_server(('0.0.0.0', {port}))\n"
        script += "print(os.getpid(), flush=True); signal.pause()"
        process = subprocess.Popen([*self.lab.enter(node), "python3", "-c", script], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        try:
            yield pid
        finally:
            # `process` is nsenter, which its child outlives.
            self.lab.exec(node, ["kill", "-KILL", str(pid)])
            process.wait()

    def names(self) -> list[str]:
        return [node.name for node in self.lab.spec.members]

    def idle(self, node: str) -> bool:
        """Whether a node holds nothing that `down` would remove (containers) or that would be in its way (a lock)."""
        return self.lab.exec(node, ["sh", "-ec", "docker ps --all --quiet; ls -A /tmp"]) == ""

    def power_on(self) -> None:
        """Give every node power."""
        for node in labs.status(self.lab):
            if node.power == "off":
                labs.power_on(self.lab, node.name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """test_during_up.py last: it limits the time of a start, and a lab's first one, which compiles, takes longest."""
    items.sort(key=lambda item: item.path.name == "test_during_up.py")


@pytest.fixture(scope="session")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """Two nodes with two slots each. Whatever an earlier, killed run left is removed first."""
    if os.geteuid() != 0:
        pytest.fail("the lab's tests need root (run the others with: pytest -m 'not lab')")
    name = os.environ.get("CLUSTERCTL_TEST_LAB", "pytest")
    labs.down(name, say=print)
    directory = tmp_path_factory.mktemp("lab")
    lab = labs.up(name, LabOptions(nodes=2, gpus=2, directory=directory), say=print)
    yield Rehearsal(lab, Clusterctl(lab.inventory))
    labs.down(name, say=print)


@pytest.fixture
def clean(rehearsal: Rehearsal) -> Iterator[Rehearsal]:
    """The lab with nothing running on it, before and after, whatever the test did."""
    rehearsal.power_on()
    yield rehearsal
    rehearsal.power_on()
    # Most tests leave nothing behind; to look is twenty times as fast as `down`.
    if not all(rehearsal.idle(name) for name in rehearsal.names()):
        assert rehearsal.clusterctl("down").code == 0
