"""What the engine's restart policy is worth after what clusterctl does to a container; nothing in it but a sleeper."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from clusterctl.hosts.host import Hosts
from clusterctl.inventory.load import load_inventory
from clusterctl.lab.commands import CommandError
from clusterctl.planning.container import restart_policy

from .conftest import Rehearsal
from .faults import restart_engine

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

NAME = "policy-trial"
NODE = "node1"
SLEEPER = """
import signal, time
signal.signal(signal.SIGUSR1, lambda *_: print("rung", flush=True))
print("ready", flush=True)
while True:
    time.sleep(0.1)
"""
DEADLINE_S = 30


@pytest.fixture
def sleeper(rehearsal: Rehearsal) -> Iterator[Rehearsal]:
    """A container that the engine starts again, in which a process listens to SIGUSR1."""
    inventory = load_inventory(rehearsal.clusterctl.inventory)
    image = inventory.container.image
    flags = ["--name", NAME, "--restart", restart_policy(inventory), "--entrypoint", "python3"]
    rehearsal.lab.exec(NODE, ["docker", "run", "-d", *flags, image, "-c", SLEEPER])
    yield rehearsal
    rehearsal.lab.exec(NODE, ["docker", "rm", "-f", NAME])


def said(rehearsal: Rehearsal, word: str, times: int) -> None:
    """Wait until the process has said it so often, over all its lives."""
    deadline = time.monotonic() + DEADLINE_S
    while _log(rehearsal).split().count(word) < times:
        assert time.monotonic() < deadline, f"{word} was not said {times} times"
        time.sleep(0.2)


def _log(rehearsal: Rehearsal) -> str:
    try:
        return rehearsal.lab.exec(NODE, ["docker", "logs", NAME])
    except CommandError:
        return ""  # the engine is not there at this moment


def test_a_container_that_was_sent_a_signal_is_still_started_again(sleeper: Rehearsal) -> None:
    said(sleeper, "ready", 1)
    with Hosts(load_inventory(sleeper.clusterctl.inventory)) as hosts:
        engine = hosts.one(NODE).engine
        engine.signal(NAME, "SIGUSR1")
        said(sleeper, "rung", 1)
        pid = sleeper.lab.exec(NODE, ["docker", "inspect", "-f", "{{.State.Pid}}", NAME]).strip()
        sleeper.lab.exec(NODE, ["kill", "-KILL", pid])
        said(sleeper, "ready", 2)  # with `docker kill --signal USR1` it stays as it ended
        engine.stop(NAME, timeout_s=1)
        engine.signal(NAME, "SIGUSR1")  # harmless
    sleeper.lab.exec(NODE, ["docker", "inspect", NAME])


def test_a_container_is_started_again_by_an_engine_that_was_killed(sleeper: Rehearsal) -> None:
    said(sleeper, "ready", 1)
    restart_engine(sleeper.lab, NODE, "KILL")
    said(sleeper, "ready", 2)  # with `unless-stopped` it stays as the engine ended it
