"""Podman's own answers, on a lab node that has it: what its door does otherwise than Docker's, without a model.

Its nodes bring a root of Debian 13, of which the first lab on a machine makes one (minutes): `make podman` runs this.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from clusterctl.hosts.engine.engine import EngineError, FileInContainer
from clusterctl.hosts.engine.podman import PodmanEngine
from clusterctl.hosts.host import Hosts
from clusterctl.inventory.load import load_inventory
from clusterctl.inventory.model import Inventory
from clusterctl.lab import lab as labs
from clusterctl.lab.lab import LabOptions

from .conftest import Clusterctl, Rehearsal, until

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(900),
    pytest.mark.skipif("CLUSTERCTL_TEST_PODMAN" not in os.environ, reason="CLUSTERCTL_TEST_PODMAN is not set"),
]

NAME, NODE = "podman-trial", "node1"
SLEEPER = "import time\nprint('ready', flush=True)\nwhile True: time.sleep(0.1)\n"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """One node with Podman; the first lab of this kind on a machine brings Debian's packages, which takes minutes."""
    name = f"{os.environ.get('CLUSTERCTL_TEST_LAB', 'pytest')}-podman"
    labs.down(name, say=print)
    options = LabOptions(nodes=1, gpus=1, directory=tmp_path_factory.mktemp("podman"), engine="podman")
    lab = labs.up(name, options, say=print)
    yield Rehearsal(lab, Clusterctl(lab.inventory))
    labs.down(name, say=print)


@pytest.fixture
def inventory(nodes: Rehearsal) -> Inventory:
    return load_inventory(nodes.lab.inventory)


@pytest.fixture
def podman(inventory: Inventory) -> Iterator[PodmanEngine]:
    """Its door, and a container in which a program sleeps, created and not started."""
    with Hosts(inventory) as hosts:
        engine = hosts.one(NODE).engine
        assert isinstance(engine, PodmanEngine)
        config = {"image": inventory.container.image, "entrypoint": ["python3", "/opt/sleeper.py"], "command": []}
        host = {"network_mode": "host", "log_config": {"Type": "json-file", "Config": {}}}
        engine.remove(NAME)
        engine.create(NAME, config, host)
        engine.put_files(NAME, [FileInContainer("/opt/sleeper.py", SLEEPER.encode())])
        yield engine
    with Hosts(inventory) as again:  # the node may have been without power meanwhile
        again.one(NODE).engine.remove(NAME)


def test_check_finds_nothing_wrong_with_a_podman_node(nodes: Rehearsal) -> None:
    ran = nodes.clusterctl("check")
    assert ran.code == 0
    assert "engine-" not in ran.out
    assert "system-unknown" not in ran.out, "its storage is looked at"


def test_processes_are_numbered_as_the_node_does(nodes: Rehearsal, podman: PodmanEngine) -> None:
    podman.start(NAME)
    (pid,) = podman.pids(NAME)
    assert "sleeper.py" in nodes.lab.exec(NODE, ["ps", "-o", "args=", "-p", str(pid)])


def test_a_process_that_is_killed_comes_back_and_a_stopped_one_does_not(nodes: Rehearsal, podman: PodmanEngine) -> None:
    podman.start(NAME)
    podman.set_restart_policy(NAME, "always")
    (pid,) = podman.pids(NAME)
    nodes.lab.exec(NODE, ["kill", "-KILL", str(pid)])
    until(lambda: podman.pids(NAME) not in ((), (pid,)), "it is started again")
    found = podman.container(NAME)
    assert found is not None
    assert (found.restart_policy, found.restart_count) == ("always", 1)
    podman.stop(NAME, timeout_s=2)
    time.sleep(2)
    assert podman.pids(NAME) == ()


def test_a_container_that_does_not_run_takes_no_command(podman: PodmanEngine) -> None:
    with pytest.raises(EngineError) as caught:
        podman.exec(NAME, ["true"], environment={}, stdin=False)
    assert caught.value.status == 409


def test_removal_does_not_wait_for_the_stop_time_out(inventory: Inventory, podman: PodmanEngine) -> None:
    stubborn = ["python3", "-c", "import signal; signal.signal(15, lambda *_: None)\nwhile True: signal.pause()"]
    config = {"image": inventory.container.image, "entrypoint": stubborn, "command": [], "stop_timeout": 900}
    podman.create(f"{NAME}-2", config, {"network_mode": "host"})
    podman.start(f"{NAME}-2")
    podman.remove(f"{NAME}-2", force=False)
    assert podman.container(f"{NAME}-2") is not None, "without force it stays"
    began = time.monotonic()
    podman.remove(f"{NAME}-2")
    assert time.monotonic() - began < 30
    assert podman.container(f"{NAME}-2") is None


def test_after_a_power_cut_the_node_starts_what_it_should(nodes: Rehearsal, podman: PodmanEngine) -> None:
    podman.start(NAME)
    podman.set_restart_policy(NAME, "always")
    labs.power_off(nodes.lab, NODE)
    labs.power_on(nodes.lab, NODE)
    asked = ["podman", "ps", "--filter", f"name={NAME}", "--format", "{{.State}}"]
    until(lambda: nodes.lab.exec(NODE, asked).strip() == "running", "it runs again")
