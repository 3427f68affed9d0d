"""ssh_config as people have it: each configuration logs in for real, once by `ssh` and once by clusterctl, and must
reach the same machines with the same users and keys."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from clusterctl.cli.main import cli
from clusterctl.errors import ClusterctlError, UsageError
from clusterctl.hosts.ssh.connection import SshConnection
from clusterctl.hosts.ssh.openssh import route_to
from clusterctl.inventory.model import Node, SshDefaults, Timeouts
from tests.unit.sshd import SSHD, Sshd, keygen
from tests.unit.support import FIXTURES

SSH = shutil.which("ssh") or "ssh"
CASES = FIXTURES / "ssh_config"
pytestmark = [
    pytest.mark.skipif(SSHD is None, reason="no sshd on this machine (Debian: apt-get install openssh-server)"),
    pytest.mark.timeout(60),
]


class Site:
    """Three machines, two keys that all of them accept, one that none accepts, and an agent that holds the second."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = {name: folder / name for name in ("first", "second", "stranger")}
        public = {name: keygen(path) for name, path in self.keys.items()}
        # Read as the user who logs in, who may not enter pytest's folders.
        self.open = Path(tempfile.mkdtemp(prefix="clusterctl-test-"))
        self.open.chmod(0o755)
        accepted = self.open / "accepted.pub"
        accepted.write_text(f"{public['first']}\n{public['second']}\n", encoding="ascii")
        more = {"LogLevel": "VERBOSE", "MaxAuthTries": "3"}
        self.machines = {
            name: Sshd(folder / f"sshd-{name}", accepted.with_suffix(""), **more) for name in ("node", "jump", "outer")
        }
        lines = [machine.known for machine in self.machines.values()]
        aliased = [f"{name}-alias {machine.public}\n" for name, machine in self.machines.items()]
        (folder / "known").write_text("".join([*lines, *aliased]), encoding="ascii")
        (folder / "conf.d").mkdir()
        (folder / "conf.d/node.conf").write_text(self.filled("Host node\n  Port {node}\n"), encoding="ascii")
        self.agent = folder / "agent"
        self._agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(self.agent)], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not self.agent.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        self.add("second")

    def add(self, name: str) -> None:
        environment = {**os.environ, "SSH_AUTH_SOCK": str(self.agent)}
        subprocess.run(["ssh-add", "-q", str(self.keys[name])], env=environment, check=True, timeout=20)

    def filled(self, text: str) -> str:
        values = {**{name: machine.port for name, machine in self.machines.items()}, **self.keys}
        values |= {
            "me": getpass.getuser(),
            "known": self.folder / "known",
            "folder": self.folder,
            "agent": self._socket,
        }
        return re.sub(r"\{([a-z]+)\}", lambda found: str(values[found[1]]), text)

    @property
    def _socket(self) -> Path:
        return self.folder / "agent"

    def logins(self) -> list[tuple[str, str, str]]:
        """Machine, user and key of every login so far."""
        found = []
        for name, machine in self.machines.items():
            log = machine.log.read_text(encoding="utf-8", errors="replace")
            found += [(name, *each) for each in re.findall(r"Accepted publickey for (\S+) .* (SHA256:\S+)", log)]
        return found

    def end(self) -> None:
        shutil.rmtree(self.open)
        self._agent.terminate()
        self._agent.wait(20)
        for machine in self.machines.values():
            machine.kill()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("config"))
    try:
        yield made
    finally:
        made.end()


HERE = "Host node\n  HostName 127.0.0.1\n  Port {node}\n"
REST = "Host *\n  HostName 127.0.0.1\n  User {me}\n  IdentityFile {first}\n  UserKnownHostsFile {known}\n"
JUMP = "Host jump\n  Port {jump}\nHost outer\n  Port {outer}\n"
CONFIGS: Mapping[str, str] = {
    "plain": HERE + REST,
    "key=value": "Host=node\nPort = {node}\n" + REST,
    "quoted": 'Host "node"\n  Port "{node}"\n  IdentityFile "{first}"\n' + REST,
    "tabs and comments": "# mine\nHost\tnode # the node\n\tPort\t{node}\n\n" + REST,
    "upper case": "HOST node\nPORT {node}\n" + REST,
    "the first value counts": "Host node\n  Port {node}\nHost *\n  Port 1\n" + REST,
    "a pattern": "Host no?e n*\n  Port {node}\n" + REST,
    "a negated pattern": "Host * !jump !outer\n  Port {node}\n" + REST,
    "no pattern fits": "Host other\n  User nobody\nHost * !node\n  Port 1\n" + HERE + REST,
    "Include": "Include {folder}/conf.d/*.conf\n" + REST,
    "Include in a Host": "Host node\n  Include {folder}/conf.d/*.conf\n" + REST,
    "Include of nothing": "Include {folder}/none/*\n" + HERE + REST,
    "Match host": "Host node\n  HostName 127.0.0.1\nMatch host 127.0.0.1\n  Port {node}\n" + REST,
    "Match originalhost": "Match originalhost node\n  Port {node}\n" + REST,
    "Match originalhost with commas": "Match originalhost other,node\n  Port {node}\n" + REST,
    "Match exec": 'Match exec "test %n = node"\n  Port {node}\nMatch exec false\n  User nobody\n' + REST,
    "Match not exec": 'Match !exec "test %n = other"\n  Port {node}\n' + REST,
    "Match user": "Match user {me}\n  Port {node}\nMatch user nobody\n  Port 1\n" + REST,
    "Match localuser": "Match localuser {me}\n  Port {node}\n" + REST,
    "Match all": "Match all\n  Port {node}\n" + REST,
    "Match final": HERE + "Match final host 127.0.0.1\n  IdentityFile {second}\n  IdentitiesOnly yes\n" + REST,
    "Match canonical": "CanonicalizeHostname yes\nMatch canonical all\n  IdentitiesOnly yes\n" + HERE + REST,
    "ProxyJump": "Host node\n  ProxyJump jump\n" + HERE + JUMP + REST,
    "ProxyJump with user and port": "Host node\n  ProxyJump {me}@127.0.0.1:{jump}\n" + HERE + REST,
    "ProxyJump as a URI": "Host node\n  ProxyJump ssh://{me}@127.0.0.1:{jump}\n" + HERE + REST,
    "two jump hosts": "Host node\n  ProxyJump outer,jump\n" + HERE + JUMP + REST,
    "a jump host behind another": "Host node\n  ProxyJump jump\nHost jump\n  ProxyJump outer\n" + HERE + JUMP + REST,
    "ProxyJump none": "Host node\n  ProxyJump none\n" + HERE + "Host *\n  ProxyJump jump\n" + JUMP + REST,
    "a jump host for all but itself": "Host jump\n  ProxyJump none\nHost *\n  ProxyJump jump\n" + HERE + JUMP + REST,
    "a jump host's other key": "Host jump\n  IdentityFile {second}\n  IdentitiesOnly yes\n"
    "Host node\n  ProxyJump jump\n" + HERE + JUMP + REST,
    "ProxyCommand": "Host node\n  ProxyCommand nc %h %p\n" + HERE + REST,
    "ProxyCommand for a shell": "Host node\n  ProxyCommand sh -c 'exec nc \"$0\" %p' %h 2>/dev/null\n" + HERE + REST,
    "ProxyCommand by ssh": "Host node\n  ProxyCommand ssh -F {folder}/config -W %h:%p jump\n" + HERE + JUMP + REST,
    "ProxyCommand none": "Host node\n  ProxyCommand none\n" + HERE + "Host *\n  ProxyCommand false\n" + REST,
    "HostKeyAlias": "Host node\n  HostKeyAlias node-alias\n" + HERE + REST,
    "HostKeyAlias of a jump host": "Host node\n  ProxyJump jump\nHost jump\n  HostKeyAlias jump-alias\n"
    + HERE
    + JUMP
    + REST,
    "known_hosts of the system": "Host node\n  UserKnownHostsFile none\n  GlobalKnownHostsFile {known}\n" + HERE + REST,
    "several known_hosts": "Host node\n  UserKnownHostsFile {folder}/none {known}\n" + HERE + REST,
    "several keys": "Host node\n  IdentityFile {stranger}\n  IdentityFile {second}\n" + HERE + REST,
    "a key that is not there": "Host node\n  IdentityFile {folder}/none\n" + HERE + REST,
    "IdentitiesOnly": "Host node\n  IdentitiesOnly yes\n" + HERE + REST,
    "IdentitiesOnly and the public half": "Host node\n  IdentityFile {second}.pub\n  IdentitiesOnly yes\n"
    + HERE
    + REST,
    "IdentityAgent none": "Host node\n  IdentityAgent none\n" + HERE + REST,
    "a token in a path": "Host node\n  IdentityFile {folder}/%%none\n  UserKnownHostsFile {folder}/%n {known}\n"
    + HERE
    + REST,
    "a variable in a path": "Host node\n  IdentityFile ${SSH_TEST_FOLDER}/second\n  IdentitiesOnly yes\n" + HERE + REST,
    "another user": "Host node\n  User nobody\n" + HERE + REST,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_machines_users_and_keys_as_ssh(site: Site, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name == "another user" and os.geteuid() != 0:
        pytest.skip("only root's sshd logs others in")
    if "nc " in CONFIGS[name] and shutil.which("nc") is None:
        pytest.skip("no nc on this machine")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(site.agent))
    monkeypatch.setenv("SSH_TEST_FOLDER", str(site.folder))
    config = site.folder / "config"
    config.write_text(site.filled(CONFIGS[name]), encoding="utf-8")
    before = site.logins()
    options = ["-F", str(config), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
    done = subprocess.run([SSH, *options, "node", "true"], capture_output=True, timeout=30, check=False)
    time.sleep(0.2)  # sshd writes its log beside the login
    by_ssh = site.logins()
    theirs = _since(before, by_ssh)
    assert theirs, done.stderr.decode()
    connection = SshConnection(
        Node(name="gpu1", host="node"), SshDefaults(config=config), Timeouts(connect_s=10, command_s=20)
    )
    connection.open()
    connection.close()
    deadline = time.monotonic() + 5
    while len(ours := _since(by_ssh, site.logins())) < len(theirs) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ours == theirs


def _since(before: list[tuple[str, str, str]], after: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    left = list(after)
    for login in before:
        left.remove(login)
    return sorted(left)


REFUSED = {
    "an unknown option": ("Host node\n  Prot 22\n", ["prot", "line 2"]),
    "a bad value": ("Host node\n  Port many\n", ["many", "line 2"]),
    "a loop": ("Host *\n  ProxyJump node\n", ["node"]),
    "a longer loop": ("Host node\n ProxyJump a\nHost a\n ProxyJump b\nHost b\n ProxyJump node\n", ["circle", "node"]),
    "a jump host of a jump host for all": ("Host *\n  ProxyJump bastion\n", ["bastion"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_openssh_refuses_is_refused_with_its_place(tmp_path: Path, name: str) -> None:
    text, said = REFUSED[name]
    (tmp_path / "config").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        route_to(Node(name="gpu1", host="node"), SshDefaults(config=tmp_path / "config"))
    assert [word for word in said if word not in raised.value.message] == []


@pytest.mark.parametrize("name", sorted(path.name for path in CASES.iterdir() if path.is_file()))
def test_reported_configurations_are_read_as_openssh_reads_them(name: str) -> None:
    done = subprocess.run(
        [SSH, "-F", str(CASES / name), "-G", "gpu-a"], capture_output=True, text=True, timeout=20, check=False
    )
    node, ssh = Node(name="gpu1", host="gpu-a"), SshDefaults(config=CASES / name)
    if done.returncode != 0:  # an OpenSSH that does not know a criterion yet
        with pytest.raises(ClusterctlError):
            route_to(node, ssh)
        return
    truth = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    hop = route_to(node, ssh)
    found = {"hostname": hop.hostname, "user": hop.user, "port": str(hop.port), "proxyjump": hop.proxy_jump}
    assert found == {key: truth.get(key) for key in found} or truth.get("proxyjump") == "none"
    assert all(file.is_absolute() for file in (*hop.identity_files, *hop.known_hosts))


def inventory_file(folder: Path, config: str, nodes: list[dict[str, Any]], **ssh: object) -> Path:
    (folder / "config").write_text(config, encoding="utf-8")
    path = folder / "inventory.yaml"
    said = {
        "version": 1,
        "cluster": "demo",
        "nodes": nodes,
        "network": {"cidr": "10.77.0.0/24"},
        "ssh": {"config": "config", **ssh},
        "model": {"path": "/models/tiny"},
        "container": {"image": "vllm:1"},
        "accelerator": {"kind": "nvidia", "per_node": 1},
    }
    path.write_text(json.dumps(said), encoding="utf-8")
    return path


def test_nodes_says_how_each_is_reached_and_contacts_none(tmp_path: Path) -> None:
    config = "Host gpu-a\n  HostName 192.0.2.7\n  ProxyJump bastion\n  HostKeyAlias a\nHost bastion\n  ProxyJump none\n"
    nodes: list[dict[str, Any]] = [
        {"name": "gpu1", "host": "gpu-a", "user": "ops", "port": 2222},
        {"name": "gpu2", "host": "192.0.2.8"},
    ]
    path = inventory_file(tmp_path, config + "Host *\n  Ciphers aes256-ctr\n", nodes, key="key", known_hosts="known")
    (tmp_path / "key").touch()
    done = CliRunner().invoke(cli, ["-i", str(path), "nodes", "--json"], catch_exceptions=False)
    first, second = json.loads(done.stdout)["nodes"]
    assert first == {
        "name": "gpu1",
        "host": "gpu-a",
        "hostname": "192.0.2.7",
        "port": 2222,
        "user": "ops",
        "identity_files": [str(tmp_path / "key")],
        "jump": "bastion",
        "proxy_command": None,
        "host_key_alias": "a",
        "known_hosts": [str(tmp_path / "known")],
    }
    assert (second["hostname"], second["jump"], second["user"]) == ("192.0.2.8", None, getpass.getuser())
    assert done.stderr.count("ciphers 'aes256-ctr' has no effect") == 1
    text = CliRunner().invoke(cli, ["-i", str(path), "nodes"]).stdout
    assert "ops@192.0.2.7:2222 (Host gpu-a)" in text


WITHOUT = [
    ("Include conf.d/*\nHost node\n  Port 2200\n", ["Include conf.d/*"]),
    ("Match localnetwork 192.0.2.0/24\n  User wrong\nHost node\n  Port 2200\n", ["localnetwork"]),
    ("CanonicalizeHostname yes\nHost node\n  Port 2200\n", ["CanonicalizeHostname"]),
    ("Match originalhost node\n  Port 2200\n", []),
]


@pytest.mark.parametrize(("config", "named"), WITHOUT)
def test_without_a_client_what_is_not_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, named: list[str]
) -> None:
    monkeypatch.setattr("clusterctl.hosts.ssh.openssh.shutil.which", lambda _: None)
    (tmp_path / "config").write_text(config, encoding="utf-8")
    hop = route_to(
        Node(name="gpu1", host="node", user="ops"), SshDefaults(config=tmp_path / "config", key=tmp_path / "k")
    )
    assert (hop.hostname, hop.user, hop.port, hop.identity_files[0]) == ("node", "ops", 2200, tmp_path / "k")
    assert [word for word in named if word not in " ".join(hop.remarks)] == []
    assert bool(hop.remarks) == bool(named)
