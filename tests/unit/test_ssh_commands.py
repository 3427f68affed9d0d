"""The commands that hints print are given to the real ssh, which says what it understood (`ssh -G`)."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import fabric
import pytest

from clusterctl.hosts.ssh.hops import command_to

SSH = shutil.which("ssh") or "/usr/bin/ssh"


def connection(host: str, user: str = "ops", port: int = 22, via: fabric.Connection | None = None) -> fabric.Connection:
    return fabric.Connection(host, user=user, port=port, gateway=via)


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
    (tmp_path / "empty").touch()
    via = connection(jump[0], "hop", jump[1]) if jump else None
    command = command_to(connection(host, port=port, via=via), "-v")
    found = understood(command, tmp_path / "empty")
    assert (found["hostname"], found["user"], found["port"]) == (host, "ops", str(port))
    if jump is not None:
        place = f"[{jump[0]}]" if ":" in jump[0] else jump[0]
        assert found["proxyjump"] in (f"hop@{place}:{jump[1]}", f"hop@{place}")
    else:
        assert "proxyjump" not in found


def test_several_jumps_come_in_the_order_of_the_way(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    first = connection("outer", "a", 2201)
    second = connection("inner", "b", 2202, via=first)
    found = understood(command_to(connection("gpu1", via=second)), tmp_path / "empty")
    assert found["proxyjump"] == "a@outer:2201,b@inner:2202"
