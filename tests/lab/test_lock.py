"""The cluster's lock between real processes and real sshds: what holds it, what frees it, and what stays (nothing)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from clusterctl.hosts.host import Hosts
from clusterctl.inventory.load import load_inventory
from clusterctl.lab import lab as labs
from clusterctl.lock.cluster import cluster_lock
from clusterctl.lock.node import SILENCE_S
from clusterctl.progress import SILENT
from tests.lab.conftest import Clusterctl, Rehearsal

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

DRIVER = """
import sys
from pathlib import Path
from clusterctl.errors import ClusterctlError
from clusterctl.hosts.host import Hosts
from clusterctl.inventory.load import load_inventory
from clusterctl.lock.cluster import cluster_lock
from clusterctl.ui.progress import PlainProgress

inventory, command, wait_s = sys.argv[1:]
try:
    found = load_inventory(Path(inventory))
    with Hosts(found) as hosts:
        progress = PlainProgress(sys.stdout)
        limit_s = float(wait_s) if wait_s else None
        with cluster_lock(hosts, found.cluster, command, wait_s=limit_s, progress=progress) as lock:
            print("locked", *lock.nodes, flush=True)
            for word in sys.stdin:
                if word == "ensure\\n":
                    lock.ensure()
                    print("sure", flush=True)
                else:
                    lock.note(word.strip())
    print("done", flush=True)
except ClusterctlError as error:
    print(type(error).__name__, error.message, error.hint, flush=True)
    sys.exit(error.exit_code)
"""
"""A command that changes things: holds the lock until its input ends."""


class Operator:
    """A process that uses the lock."""

    def __init__(self, inventory: Path, command: str, wait_s: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(inventory), command, wait_s],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def end(self) -> str:
        """Let it end in order; returns the rest of what it said."""
        assert self.process.stdout is not None
        if self.process.stdin is not None and not self.process.stdin.closed:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        said = self.process.stdout.read()  # not `communicate`: it knows nothing of what `readline` has read ahead
        self.process.wait(60)
        return said

    def kill(self) -> None:
        self.process.kill()
        self.end()


@pytest.fixture
def locks(clean: Rehearsal) -> Iterator[Rehearsal]:
    """Whatever a test does, neither a lock nor a process that holds one is on the nodes afterwards."""
    assert clean.clusterctl("history", "--forget").code == 0
    yield clean
    assert left(clean) == []
    assert clean.clusterctl("history", "--forget").code == 0


def left(lab: Rehearsal) -> list[str]:
    found = [f"{node}:{name}" for node in lab.names() for name in lab.lab.exec(node, ["ls", "-A", "/tmp"]).split()]
    scripts = [(node, line) for node in lab.names() for line in lab.processes(node)]
    return [*found, *(f"{node}: {line}" for node, line in scripts if "-s -- /tmp/clusterctl-" in line)]


def holding(lab: Rehearsal, command: str = "up", wait_s: str = "") -> Operator:
    operator = Operator(lab.clusterctl.inventory, command, wait_s)
    assert operator.line() == f"locked {' '.join(lab.names())}"
    return operator


def test_the_second_is_told_who_and_what_and_gets_nothing(locks: Rehearsal) -> None:
    first = holding(locks)
    second = Operator(locks.clusterctl.inventory, "down")
    said = second.end()
    assert second.process.returncode == 6
    assert said.startswith("LockedError ")
    for node in locks.names():
        assert f"{node}: " in said
    assert f"(pid {first.process.pid} there) has been running `up` since " in said
    first.say("replaced containers on node1")
    assert first.end() == "done\n"
    began = time.monotonic()
    assert holding(locks, "down").end() == "done\n"
    assert time.monotonic() - began < 10
    runs = locks.clusterctl("history", "--json").json()["runs"]
    assert [(run["command"], run["outcome"], run["nodes"]) for run in runs] == [
        ("up", "ok", locks.names()),
        ("down", "ok", locks.names()),
    ]
    assert [note["text"] for note in runs[0]["notes"]] == ["replaced containers on node1"]


def test_of_two_that_begin_at_once_one_wins(locks: Rehearsal) -> None:
    operators = [Operator(locks.clusterctl.inventory, f"up {number}") for number in range(4)]
    first = [operator.line().split()[0] for operator in operators]
    assert sorted(first) == ["LockedError", "LockedError", "LockedError", "locked"]
    for operator in operators:
        operator.end()


def test_kill_9_frees_it_at_once_for_the_one_who_waits(locks: Rehearsal) -> None:
    first = holding(locks)
    second = Operator(locks.clusterctl.inventory, "down", "60")
    assert "waiting for the cluster's lock" in second.line()
    assert "has been running `up` since" in second.line()
    killed = time.monotonic()
    first.kill()
    assert second.line().startswith("locked")
    assert time.monotonic() - killed < 3
    assert second.end() == "done\n"
    outcomes = [run["outcome"] for run in locks.clusterctl("history", "--json").json()["runs"]]
    assert outcomes == ["cut off: eof", "ok"]


def test_waiting_has_an_end(locks: Rehearsal) -> None:
    first = holding(locks)
    second = Operator(locks.clusterctl.inventory, "down", "2")
    said = second.end()
    assert second.process.returncode == 6
    assert "is still, after 2 s, locked" in said
    first.end()


def test_a_pulled_cable_frees_the_node_after_the_silence(locks: Rehearsal) -> None:
    first = holding(locks)
    node = locks.names()[-1]
    labs.partition(locks.lab, node)
    try:
        pulled = time.monotonic()
        while left_there(locks, node) and time.monotonic() - pulled < 2 * SILENCE_S:
            time.sleep(0.5)
        silence = time.monotonic() - pulled
        assert SILENCE_S - 11 < silence < SILENCE_S + 5
        first.say("ensure")
        said = first.line()
        assert said.startswith("LockLostError")
        assert f"  {node}: " in said + first.end()
    finally:
        labs.heal(locks.lab, node)


def left_there(lab: Rehearsal, node: str) -> bool:
    return any(lab.lab.exec(node, ["ls", "-A", "/tmp"]).split())


def test_a_sleeping_laptop_loses_it_and_knows_when_it_wakes(locks: Rehearsal) -> None:
    first = holding(locks)
    os.kill(first.process.pid, signal.SIGSTOP)
    slept = time.monotonic()
    second = Operator(locks.clusterctl.inventory, "down", "60")
    while not (said := second.line()).startswith("locked"):
        assert said
    assert SILENCE_S - 11 < time.monotonic() - slept < SILENCE_S + 8
    first.say("ensure")
    os.kill(first.process.pid, signal.SIGCONT)
    assert first.line().startswith("LockLostError")
    first.end()
    assert second.end() == "done\n"
    outcomes = {run["command"]: run["outcome"] for run in locks.clusterctl("history", "--json").json()["runs"]}
    assert outcomes == {"up": "cut off: silence", "down": "ok"}


def test_it_is_sure_of_itself_as_long_as_it_holds(locks: Rehearsal) -> None:
    first = holding(locks)
    for _ in range(3):
        first.say("ensure")
        assert first.line() == "sure"
    locks.lab.exec(locks.names()[0], ["pkill", "-KILL", "-f", "^sh -s -- /tmp/clusterctl-"])
    time.sleep(1)
    first.say("ensure")
    assert first.line().startswith("LockLostError")
    first.end()
    locks.lab.exec(locks.names()[0], ["sh", "-c", "rm -f /tmp/clusterctl-*.lock"])  # of the script that was killed


def test_different_logins_exclude_each_other(locks: Rehearsal) -> None:
    other = as_another_login(locks)
    first = holding(locks)
    second = Operator(other.inventory, "down")
    assert "has been running `up` since" in second.end()
    assert second.process.returncode == 6
    first.end()
    third = Operator(other.inventory, "down")
    assert third.line().startswith("locked")
    fourth = Operator(locks.clusterctl.inventory, "up")
    assert "has been running `down` since" in fourth.end()
    third.end()


def as_another_login(lab: Rehearsal) -> Clusterctl:
    """An inventory whose login is a user of its own on the nodes, made there."""
    for node in lab.names():
        script = (
            "grep -q ^other: /etc/passwd || { echo other:x:1234:101::/srv/other:/bin/sh >>/etc/passwd;"
            " echo 'other:*:19000:0:99999:7:::' >>/etc/shadow; };"
            " mkdir -p /srv/other && cp -r /root/.ssh /srv/other/ && chown -R 1234:101 /srv/other"
        )
        lab.lab.exec(node, ["sh", "-c", script])
    data = yaml.safe_load(lab.clusterctl.inventory.read_text())
    data["ssh"]["user"] = "other"
    changed = lab.clusterctl.inventory.parent / "other.yaml"
    changed.write_text(yaml.safe_dump(data, sort_keys=False))
    return Clusterctl(changed)


def test_a_node_without_power_is_not_locked_and_the_others_are(locks: Rehearsal) -> None:
    labs.power_off(locks.lab, locks.names()[-1])
    operator = Operator(locks.clusterctl.inventory, "down")
    assert operator.line() == f"locked {locks.names()[0]}"
    operator.end()
    ran = locks.clusterctl("history", "--json")
    assert ran.code == 0
    assert list(ran.json()["unread"]) == locks.names()[-1:]
    assert locks.clusterctl("history", "--forget").code == 1
    labs.power_on(locks.lab, locks.names()[-1])


def test_two_inventories_in_different_order_do_not_wait_for_each_other(locks: Rehearsal) -> None:
    data = yaml.safe_load(locks.clusterctl.inventory.read_text())
    data["nodes"] = data["nodes"][::-1]
    turned = locks.clusterctl.inventory.parent / "turned.yaml"
    turned.write_text(yaml.safe_dump(data, sort_keys=False))
    operators = [Operator(path, "up", "60") for path in (locks.clusterctl.inventory, turned) for _ in range(3)]
    for operator in operators:
        assert operator.process.stdin is not None
        operator.process.stdin.close()
    for operator in operators:
        assert operator.end().endswith("done\n")
        assert operator.process.returncode == 0


def test_two_entries_for_one_machine_are_not_waited_for(locks: Rehearsal) -> None:
    first = yaml.safe_load(locks.clusterctl.inventory.read_text())["nodes"][0]["host"]
    twice = locks.clusterctl.with_changes("twice", {"nodes.1.host": first, "nodes.1.port": 22})
    ran = twice("down", "--wait", "60")
    assert ran.code == 1
    assert "the same machine" in ran.err
    assert ran.seconds < 20


def test_what_goes_wrong_inside_is_put_down(locks: Rehearsal) -> None:
    inventory = load_inventory(locks.clusterctl.inventory)
    with (
        pytest.raises(KeyboardInterrupt),
        Hosts(inventory) as hosts,
        cluster_lock(hosts, inventory.cluster, "up", wait_s=None, progress=SILENT),
    ):
        raise KeyboardInterrupt
    with Hosts(inventory) as hosts, cluster_lock(hosts, inventory.cluster, "down", wait_s=None, progress=SILENT):
        pass
    lines = locks.clusterctl("history").out.splitlines()
    assert [line.split("  ")[2:] for line in lines] == [["up", "interrupted after 0 s"], ["down", "ok after 0 s"]]


def test_another_runs_probe_on_the_ports_is_waited_for(clean: Rehearsal) -> None:
    node, inventory = clean.names()[0], load_inventory(clean.clusterctl.inventory)
    labels = ["--label", f"clusterctl.cluster={inventory.cluster}", "--label", "clusterctl.role=probe"]
    listen = "import socket, time; s = socket.create_server(('0.0.0.0', 6379)); time.sleep(4)"
    image = inventory.container.image
    run = ["docker", "run", "--rm", "-d", "--network", "host", *labels, "--entrypoint", "python3", image, "-c", listen]
    clean.lab.exec(node, run)
    deadline = time.monotonic() + 5
    while 6379 not in clean.listening(node) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert clean.clusterctl("check").code == 0
    with clean.stranger(node, 6379):
        assert "port-taken" in clean.clusterctl("check").out
