"""The commands that hints print are given to the real ssh, which says what it understood (`ssh -G`)."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from clusterctl.hosts.ssh.hops import command_to, hops_of
from clusterctl.hosts.ssh.route import routes
from clusterctl.inventory.model import Node, SshDefaults, Timeouts

SSH = shutil.which("ssh") or "/usr/bin/ssh"


def command(empty: Path, host: str, port: int | None, jump: str | None) -> str:
    """What a hint prints for a node that the inventory has with these values."""
    node = Node(name="gpu1", host=host, user="ops", port=port, jump=jump)
    return command_to(hops_of(routes([node], SshDefaults(config=empty), Timeouts())["gpu1"], 10), "-v")


def understood(command: str, empty: Path) -> dict[str, str]:
    """What ssh makes of it, without connecting and without this login's own configuration."""
    program, *rest = shlex.split(command)
    assert program == "ssh"
    done = subprocess.run([SSH, "-F", str(empty), "-G", *rest], capture_output=True, text=True, check=True, timeout=20)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


@pytest.mark.parametrize(
    ("host", "port"),
    [("gpu1.example.com", 22), ("10.77.0.1", 2222), ("2001:db8::5", 22), ("2001:db8::5", 2222), ("gpu_1", 22)],
)
@pytest.mark.parametrize("jump", [None, ("bastion", 22), ("2001:db8::1", 2200)])
def test_the_printed_command_reaches_the_same_machine(
    host: str, port: int, jump: tuple[str, int] | None, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    place = f"[{jump[0]}]" if jump and ":" in jump[0] else jump and jump[0]
    found = understood(command(empty, host, port, f"hop@{place}:{jump[1]}" if jump else None), empty)
    assert (found["hostname"], found["user"], found["port"]) == (host, "ops", str(port))
    if jump is not None:
        assert found["proxyjump"] in (f"hop@{place}:{jump[1]}", f"hop@{place}")
    else:
        assert "proxyjump" not in found


def test_several_jumps_come_in_the_order_of_the_way(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    found = understood(command(empty, "gpu1", None, "a@outer:2201,b@inner:2202"), empty)
    assert found["proxyjump"] == "a@outer:2201,b@inner:2202"
