"""Real sshd processes of this machine, each on a port of its own on the loopback."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from clusterctl.hosts.host import Host, Hosts
from clusterctl.hosts.ssh.connection import SshConnection
from clusterctl.inventory.model import Inventory
from tests.unit.support import inventory

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


def keygen(path: Path) -> str:
    """A new key pair; returns `type base64` of the public half."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=20)
    return " ".join(path.with_suffix(".pub").read_text(encoding="ascii").split()[:2])


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def inventory_of(
    folder: Path, key: Path, known: str, ports: Mapping[str, int], timeouts: Mapping[str, float]
) -> Inventory:
    """Nodes of the loopback by name and port, reached with this key and these known_hosts and no ssh_config."""
    known_hosts, config = folder / "known_hosts", folder / "ssh_config"
    known_hosts.write_text(known, encoding="ascii")
    config.touch()
    nodes = [
        {"name": name, "host": "127.0.0.1", "port": port, "user": getpass.getuser()} for name, port in ports.items()
    ]
    ssh = {"key": str(key), "known_hosts": str(known_hosts), "config": str(config)}
    return inventory({"nodes": nodes, "ssh": ssh, "timeouts": dict(timeouts)})


class Sshd:
    """A real sshd on a port of its own, with its own host key; it accepts one user key."""

    def __init__(self, folder: Path, user_key: Path, **options: str) -> None:
        folder.mkdir()
        self.port = free_port()
        self.host_key = folder / "host_key"
        self.public = keygen(self.host_key)
        settings = {
            "Port": str(self.port),
            "ListenAddress": "127.0.0.1",
            "HostKey": str(self.host_key),
            "AuthorizedKeysFile": str(user_key.with_suffix(".pub")),
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "UseDNS": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "yes",
            **options,
            # No home, so that no login reads a ~/.bashrc: a developer's may take longer than everything else, or wait
            # for a lock that a killed login has left.
            "SetEnv": f"HOME={folder} {options.get('SetEnv', '')}".rstrip(),
        }
        config = folder / "sshd_config"
        config.write_text("".join(f"{key} {value}\n" for key, value in settings.items()), encoding="utf-8")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd of Debian does not start without it
        self.log = folder / "log"
        self._argv = [str(SSHD), "-D", "-e", "-f", str(config)]
        self.start()

    def start(self) -> None:
        """Listen; also again, with the same port and host key, after `kill`."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._argv, stdout=log, stderr=log, start_new_session=True)
        self._wait_until_open()

    def _wait_until_open(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
            time.sleep(0.02)
        pytest.fail(f"sshd did not open its port: {self.log.read_text(encoding='utf-8')}")

    @property
    def known(self) -> str:
        return f"[127.0.0.1]:{self.port} {self.public}\n"

    def kill(self) -> None:
        """End the listener and every session it has, as a power cut would."""
        children = subprocess.run(
            ["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True, timeout=20
        ).stdout
        parents = [(int(pid), int(parent)) for pid, parent in (row.split() for row in children.splitlines())]
        doomed = {self.process.pid}
        while more := {pid for pid, parent in parents if parent in doomed} - doomed:
            doomed |= more
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(20)


ANSWER = r"""while read -r line && [ "$line" != "$(printf '\r')" ]; do :; done
printf 'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 21\r\n\r\n{"ApiVersion":"1.41"}'"""
"""A `docker system dial-stdio` that answers one call, whatever it is, with the engine's version, and ends."""


class OneNode:
    """gpu1: a real sshd whose `docker` is a script."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key, self._binaries = folder, folder / "user_key", folder / "bin"
        keygen(self.key)
        self._binaries.mkdir()
        environment = f"PATH={self._binaries}:/usr/bin:/bin"
        self.sshd = Sshd(folder / "node", self.key, SetEnv=environment, MaxSessions="20")

    def docker(self, script: str) -> None:
        """What `docker system dial-stdio` does from now on."""
        docker = self._binaries / "docker"
        docker.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
        docker.chmod(0o755)

    def hosts(self, *, accept: bool = False, jump: Sshd | None = None) -> Hosts:
        timeouts = {"connect_s": 10, "command_s": 20}
        ports = {"gpu1": self.sshd.port}
        found = inventory_of(self.folder, self.key, self.sshd.known, ports, timeouts)
        if jump is not None:
            (self.folder / "known_hosts").write_text(self.sshd.known + jump.known, encoding="ascii")
            via = f"{getpass.getuser()}@127.0.0.1:{jump.port}"
            found = found.model_copy(update={"ssh": found.ssh.model_copy(update={"jump": via})})
        return Hosts(found, accept_new_host_keys=accept)

    def log(self) -> str:
        """What sshd wrote."""
        return self.sshd.log.read_text(encoding="utf-8", errors="replace")

    def logins(self) -> int:
        """How often somebody has logged in."""
        return self.log().count("Accepted publickey")


def over_ssh(host: Host) -> SshConnection:
    """A host's connection, which is one over SSH."""
    assert isinstance(host.connection, SshConnection)
    return host.connection
