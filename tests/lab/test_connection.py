"""One SSH connection that carries thousands of short channels to a real engine."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from clusterctl.hosts.host import Hosts
from clusterctl.inventory.load import load_inventory
from tests.lab.conftest import Rehearsal

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


def test_thousands_of_short_commands_and_calls_of_the_engine_over_one_connection(rehearsal: Rehearsal) -> None:
    """One after the other: the engine's idle channels count against sshd's MaxSessions, which is 10 by default."""
    with Hosts(load_inventory(rehearsal.lab.inventory), only={"node1"}) as hosts:
        host = hosts.one("node1")
        connection = host.connection.transport
        began = time.monotonic()
        with ThreadPoolExecutor(10) as pool:
            runs = [pool.submit(host.connection.run, ["true"]) for _ in range(2000)]
            assert {run.result().exit_code for run in runs} == {0}
            # A process each, as people type it, with its own connection to the engine.
            versions = [pool.submit(host.connection.run, ["docker", "version"]) for _ in range(100)]
            assert {version.result().exit_code for version in versions} == {0}
            answers = [pool.submit(host.engine.version) for _ in range(500)]
            assert all(answer.result().api for answer in answers)
        print(f"2,000 commands, 100 `docker version`, 500 calls of the API: {time.monotonic() - began:.1f} s")
        assert host.connection.transport is connection
        assert host.connection.is_open
