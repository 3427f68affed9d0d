"""Real sshd processes and keys for configurations of ssh: who logs in where, once by ssh, once by clusterctl."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clusterctl.errors import ClusterctlError
from clusterctl.hosts.ssh.connection import SshConnection
from clusterctl.inventory.model import Node, SshDefaults, Timeouts
from tests.unit.sshd import Sshd, keygen

SSH_KEYGEN_S = 20

FDPASS = """import array, socket, sys
made = socket.create_connection((sys.argv[1], int(sys.argv[2])))
out = socket.socket(fileno=1)
out.sendmsg([b"\\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [made.fileno()]))])
"""
"""A ProxyCommand that hands its connection over (ProxyUseFdpass)."""

RELAY = """import os, socket, sys, threading
made = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def out():
    while data := made.recv(65536):
        os.write(1, data)
    os._exit(0)
threading.Thread(target=out, daemon=True).start()
while data := os.read(0, 65536):
    made.sendall(data)
"""
"""A ProxyCommand that passes bytes on, as nc does."""


@dataclass(frozen=True)
class Case:
    """One configuration: ssh_config, what the inventory adds, and where it differs from others."""

    name: str
    config: str
    node: Mapping[str, str] = field(default_factory=dict)
    """What the inventory says of the node, as text: user, port, key, jump."""
    host: str = "gpu"
    works: bool = True
    """Whether a login comes about; both must agree, and with this."""
    agent: tuple[str, ...] | None = None
    """Keys that the agent of $SSH_AUTH_SOCK holds; None: there is no agent."""
    command: str = "true"
    tail: str = "Host *\n  UserKnownHostsFile {known}\n  GlobalKnownHostsFile /dev/null\n  User {me}\n"


def run(*argv: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(argv, check=True, input=stdin, capture_output=True, timeout=SSH_KEYGEN_S, env=env)
    return done.stdout.decode()


def agent_at(socket: Path, *keys: Path) -> subprocess.Popen[bytes]:
    """An ssh-agent on this socket that holds these keys; end it with `kill`."""
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not socket.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    for key in keys:
        run("ssh-add", "-q", str(key), env={**os.environ, "SSH_AUTH_SOCK": str(socket)})
    return process


class World:
    """Four sshd: a node, one with a certificate, and two jump hosts. They accept the keys a, b and r, and a user CA."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("a", "b", "stranger", "signed", "user_ca", "host_ca", "other_ca"):
            keygen(folder / name)
        run("ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", str(folder / "r"))
        publics = "".join((folder / f"{name}.pub").read_text() for name in ("a", "b", "r"))
        (folder / "authorized_keys").write_text(publics)
        (folder / "fdpass.py").write_text(FDPASS)
        (folder / "relay.py").write_text(RELAY)
        self._sign("user_ca", folder / "signed.pub", "-n", f"{getpass.getuser()},daemon")
        self.sshds = {name: self._sshd(name) for name in ("node", "jump1", "jump2")}
        self.sshds["certified"] = self._certified()
        self._known_hosts()
        self.agents: list[subprocess.Popen[bytes]] = []

    def _sign(self, authority: str, public: Path, *options: str, serial: int = 1) -> None:
        ca = str(self.folder / authority)
        run("ssh-keygen", "-q", "-s", ca, "-I", "tested", "-z", str(serial), *options, str(public))

    def _sshd(self, name: str, **options: str) -> Sshd:
        return Sshd(
            self.folder / name,
            self.folder / "a",
            AuthorizedKeysFile=str(self.folder / "authorized_keys"),
            TrustedUserCAKeys=str(self.folder / "user_ca.pub"),
            LogLevel="DEBUG1",
            AcceptEnv="TESTED",
            **options,
        )

    def _certified(self) -> Sshd:
        """An sshd whose host key is certified for `gpu.test` alone; its key is made before it, for the authority."""
        sshd = self._sshd("certified")
        self._sign("host_ca", sshd.host_key.with_suffix(".pub"), "-h", "-n", "gpu.test,127.0.0.1", "-V", "-1d:+1d")
        sshd.kill()
        config = sshd.host_key.parent / "sshd_config"
        config.write_text(config.read_text() + f"HostCertificate {sshd.host_key}-cert.pub\n")
        sshd.start()
        return sshd

    def _known_hosts(self) -> None:
        sshds = self.sshds
        public = {name: sshd.public for name, sshd in sshds.items()}
        files = {
            "known": "".join(sshds[name].known for name in ("node", "jump1", "jump2")),
            "jumps": sshds["jump1"].known + sshds["jump2"].known,
            "aliased": f"the-node {public['node']}\n{sshds['jump1'].known}",
            "portless": f"127.0.0.1 {public['node']}\n",
            "hashed": sshds["node"].known,
            "changed": f"[127.0.0.1]:{sshds['node'].port} {public['jump1']}\n",
            "authority": f"@cert-authority *.test,127.0.0.1 {self.public('host_ca')}\n",
            "authority-port": f"@cert-authority [127.0.0.1]:* {self.public('host_ca')}\n",
            "other-authority": f"@cert-authority * {self.public('other_ca')}\n",
            "authority-and-key": f"@cert-authority * {self.public('other_ca')}\n{sshds['certified'].known}",
            "authority-revoked": f"@revoked * {self.public('host_ca')}\n@cert-authority * {self.public('host_ca')}\n",
            "key-revoked": f"@revoked * {public['node']}\n{sshds['node'].known}",
            "empty": "",
            "with blank": sshds["node"].known,
            "gpu.known": sshds["node"].known,
            "revoked-keys": f"{public['node']}\n",
        }
        for name, text in files.items():
            (self.folder / name).write_text(text)
        run("ssh-keygen", "-q", "-H", "-f", str(self.folder / "hashed"))
        krl, listed = self.folder / "revoked.krl", self.folder / "listed.pub"
        listed.write_text(f"{public['node']}\n")
        run("ssh-keygen", "-q", "-k", "-f", str(krl), str(listed))

    def public(self, name: str) -> str:
        return " ".join((self.folder / f"{name}.pub").read_text().split()[:2])

    def text(self, template: str) -> str:
        """With the places of this world filled in: {node} and other ports, {dir}, {known}, {me}."""
        values = {name: str(sshd.port) for name, sshd in self.sshds.items()}
        values |= {"dir": str(self.folder), "known": str(self.folder / "known"), "me": getpass.getuser()}
        values["config"] = str(self.folder / "config")
        return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), template)

    def config(self, case: Case) -> Path:
        path = self.folder / "config"
        path.write_text(self.text(case.config + case.tail))
        return path

    def by_ssh(self, case: Case) -> Outcome:
        asked = {name: self.text(value) for name, value in case.node.items()}
        flags = {"port": "-p", "user": "-l", "key": "-i", "jump": "-J"}
        options = [word for name, flag in flags.items() if name in asked for word in (flag, asked[name])]
        argv = ["ssh", "-F", str(self.config(case)), "-oBatchMode=yes", *options, case.host, case.command]
        mark = self._mark()
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
        worked = done.returncode != 255
        return Outcome(worked, done.stdout if worked else b"", self._since(mark), done.stderr.decode(errors="replace"))

    def by_clusterctl(self, case: Case) -> Outcome:
        asked: dict[str, object] = {name: self.text(value) for name, value in case.node.items()}
        if "port" in asked:
            asked["port"] = int(str(asked["port"]))
        if "key" in asked:
            asked["key"] = Path(str(asked["key"]))
        ssh = SshDefaults(config=self.config(case))
        mark = self._mark()
        said, output, worked, connection = "", b"", False, None
        try:
            node = Node.model_validate({"name": "gpu", "host": case.host, **asked})
            connection = SshConnection(node, ssh, Timeouts(connect_s=20, command_s=20))
            connection.open()
            worked = True
            output = connection.run(["sh", "-c", case.command]).stdout
        except ClusterctlError as error:
            said = error.message
        finally:
            if connection is not None:
                connection.close()
        return Outcome(worked, output, self._since(mark), said)

    def _mark(self) -> dict[str, int]:
        return {name: sshd.log.stat().st_size for name, sshd in self.sshds.items()}

    def _since(self, mark: Mapping[str, int]) -> dict[str, list[str]]:
        """Who logged in where since then, with which key, and where they went on to."""
        deadline, seen = time.monotonic() + 5, dict[str, list[str]]()
        while time.monotonic() < deadline:
            found = {
                name: sshd.log.read_bytes()[mark[name] :].decode(errors="replace") for name, sshd in self.sshds.items()
            }
            now = {name: LOGIN.findall(text) for name, text in found.items()}
            if now == seen:
                break
            seen = now
            time.sleep(0.05)
        ports = {str(sshd.port): name for name, sshd in self.sshds.items()}
        return {
            name: [" ".join(ports.get(word, word) for word in line if word) for line in lines]
            for name, lines in seen.items()
        }

    def end(self) -> None:
        for process in self.agents:
            process.kill()
            process.wait(20)
        for sshd in self.sshds.values():
            with contextlib.suppress(ProcessLookupError):
                sshd.kill()


LOGIN = re.compile(
    r"(?:Accepted (publickey|none|\S+) for (\S+) from \S+ port \d+ ssh2: (\S+ \S+))"
    r"|(?:server_request_direct_tcpip: originator \S* port \d+, target (\S+) port (\d+))"
)
"""A login with its user and key, or a way on from a jump host, in sshd's log."""


@dataclass(frozen=True)
class Outcome:
    worked: bool
    output: bytes
    logins: Mapping[str, list[str]]
    said: str = field(compare=False)
