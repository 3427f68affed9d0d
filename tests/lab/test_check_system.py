"""What is wrong with a machine is found on the lab's nodes. Each fault is put there, and taken away again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from .conftest import Clusterctl, Rehearsal

pytestmark = pytest.mark.lab


def findings(clusterctl: Clusterctl) -> dict[str, dict[str, Any]]:
    """Code → finding."""
    return {finding["code"]: finding for finding in clusterctl("check", "--json").json()["findings"]}


@contextmanager
def shell(rehearsal: Rehearsal, node: str, doing: str, undoing: str) -> Iterator[None]:
    """Something done on a node, and undone whatever happens."""
    rehearsal.lab.exec(node, ["sh", "-c", doing])
    try:
        yield
    finally:
        rehearsal.lab.exec(node, ["sh", "-c", undoing])


def test_a_good_lab_has_no_findings(clean: Rehearsal) -> None:
    assert findings(clean.clusterctl) == {}


def test_a_host_name_that_is_loopback(clean: Rehearsal) -> None:
    wrong = 'printf "127.0.1.1 %s\\n" "$(hostname)" >/tmp/hosts && mount --bind /tmp/hosts /etc/hosts'
    with shell(clean, "node2", wrong, "umount /etc/hosts; rm /tmp/hosts"):
        found = findings(clean.clusterctl)["hostname-loopback"]
        assert found["nodes"] == ["node2"]
        assert "127.0.1.1" in found["seen"]


def test_a_disk_that_is_nearly_full(clean: Rehearsal) -> None:
    with shell(clean, "node1", "mount -t tmpfs -o size=1m none /tmp", "umount /tmp"):
        found = findings(clean.clusterctl)["disk-full"]
        assert found["nodes"] == ["node1"]
        assert found["severity"] == "warning"
        assert "/tmp (temporary files) has 1 MiB of 1 MiB free (tmpfs)" in found["seen"]


def test_a_full_data_root_keeps_up_from_starting(clean: Rehearsal) -> None:
    root = clean.lab.exec("node2", ["docker", "info", "--format", "{{.DockerRootDir}}"]).strip()
    with shell(clean, "node2", f"mount -t tmpfs -o size=64m none {root}", f"umount {root}"):
        ran = clean.clusterctl("up")
        assert ran.code == 1
        assert f"error [disk-full] node2: {root} (the engine's data root) has 64 MiB of 64 MiB free" in ran.err


def test_a_clock_that_is_wrong(clean: Rehearsal) -> None:
    """The lab's nodes share one kernel and its clock, so what is changed is the `date` that node2 is asked with."""
    late = r"""cp /bin/date /tmp/date && printf '#!/bin/sh\nexec /tmp/date -d "7 seconds" "$@"\n' >/tmp/late"""
    late += " && chmod +x /tmp/late && mount --bind /tmp/late /bin/date"
    with shell(clean, "node2", late, "umount /bin/date; rm /tmp/date /tmp/late"):
        found = findings(clean.clusterctl)["clock-skew"]
        assert "node2 +7.0 s" in found["seen"]
        assert found["severity"] == "warning"


def test_memlock_that_the_engine_may_not_give(clean: Rehearsal) -> None:
    pid = clean.lab.exec("node1", ["cat", "/run/docker.pid"])
    capabilities = clean.lab.exec("node1", ["grep", "CapEff", f"/proc/{pid}/status"]).split()[1]
    if int(capabilities, 16) >> 24 & 1:
        pytest.skip("this machine gives its engines CAP_SYS_RESOURCE")
    asked = clean.clusterctl.with_changes("memlock", {"container.ulimits": {"memlock": -1}})
    ran = asked("up")
    assert ran.code == 1
    assert f"error [memlock-refused] node1: container.ulimits asks for memlock -1, the engine (pid {pid})" in ran.err


def test_a_node_without_iproute2(clean: Rehearsal) -> None:
    with shell(clean, "node2", "mount --bind /bin/false $(command -v ip)", "umount $(command -v ip)"):
        assert findings(clean.clusterctl) == {}
