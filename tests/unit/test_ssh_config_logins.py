"""Configurations of ssh that log in for real, once by OpenSSH's client, once by clusterctl: the same user, hosts, jumps
and keys, as the servers' logs tell them; and the same refusals. By the options of ssh_config(5)."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clusterctl.hosts.ssh.hops import command_to, hops_of
from clusterctl.hosts.ssh.route import routes
from clusterctl.inventory.model import Node, SshDefaults, Timeouts
from tests.unit.ssh_site import Case, World, agent_at
from tests.unit.sshd import SSHD

pytestmark = [
    pytest.mark.skipif(SSHD is None or shutil.which("ssh") is None, reason="needs OpenSSH's server and client"),
    pytest.mark.timeout(90),
]

NODE = "Host gpu\n  HostName 127.0.0.1\n  Port {node}\n  IdentityFile {dir}/a\n"
CERTIFIED = "Host gpu\n  HostName 127.0.0.1\n  Port {certified}\n  IdentityFile {dir}/a\n"
JUMPS = (
    "Host jump1\n  HostName 127.0.0.1\n  Port {jump1}\n  IdentityFile {dir}/b\n"
    "Host jump2\n  HostName 127.0.0.1\n  Port {jump2}\n  IdentityFile {dir}/a\n"
)

STRANGERS = ("stranger", "another", "third", "user_ca", "host_ca", "other_ca")

CASES = [
    Case("HostName, Port, IdentityFile", NODE),
    Case("a value with = and quotes", 'Host=gpu\n  HostName="127.0.0.1"\n  Port = {node}\n  IdentityFile="{dir}/a"\n'),
    Case("the first value wins", "Host gpu\n  Port {node}\n" + NODE.replace("{node}", "1")),
    Case("a pattern and a negated one", "Host g* !gpu\n  Port 1\n" + NODE.replace("Host gpu", "Host x g?u")),
    Case("a token of HostName", NODE.replace("Host gpu", "Host 127.0.0").replace("127.0.0.1", "%h.1"), host="127.0.0"),
    Case("two IdentityFile, the second is accepted", NODE.replace("{dir}/a", "{dir}/stranger\n  IdentityFile {dir}/b")),
    Case("an IdentityFile that is not there", NODE.replace("{dir}/a", "{dir}/nowhere\n  IdentityFile {dir}/b")),
    Case("a token in IdentityFile", NODE.replace("{dir}/a", "{dir}/%n.key")),
    Case("a variable in IdentityFile", NODE.replace("{dir}/a", "${TESTED_KEYS}/b")),
    Case("a blank in IdentityFile", NODE.replace("{dir}/a", '"{dir}/the key"')),
    Case("keys of the agent, no file", NODE.replace("{dir}/a", "none"), agent=("b",)),
    Case("keys of the agent before files", NODE, agent=("b",)),
    Case("the agent's key that a file names comes first", NODE.replace("{dir}/a", "{dir}/b"), agent=("a", "b")),
    Case("the public half of a key in the agent", NODE.replace("{dir}/a", "{dir}/b.pub"), agent=("a", "b")),
    Case("IdentitiesOnly", NODE + "  IdentitiesOnly yes\n", agent=("b",)),
    Case("IdentityAgent", NODE.replace("{dir}/a", "none") + "  IdentityAgent {dir}/agent-b\n"),
    Case("IdentityAgent from a variable", NODE.replace("{dir}/a", "none") + "  IdentityAgent $TESTED_AGENT\n"),
    Case("IdentityAgent none", NODE + "  IdentityAgent none\n", agent=("b",)),
    Case("CertificateFile", NODE.replace("{dir}/a", "{dir}/moved\n  CertificateFile {dir}/signed-cert.pub")),
    Case("the certificate beside a key", NODE.replace("{dir}/a", "{dir}/signed")),
    Case(
        "CertificateFile of a key in the agent",
        NODE.replace("{dir}/a", "none\n  CertificateFile {dir}/signed-cert.pub"),
        agent=("moved",),
    ),
    Case("PubkeyAcceptedAlgorithms", NODE.replace("{dir}/a", "{dir}/a\n  IdentityFile {dir}/r")
         + "  PubkeyAcceptedAlgorithms rsa-sha2-512\n"),
    Case("RequiredRSASize, of a key",
         NODE.replace("{dir}/a", "{dir}/r\n  IdentityFile {dir}/b") + "  RequiredRSASize 3072\n"),
    Case("more keys in the agent than sshd takes", NODE, works=False, agent=STRANGERS),
    Case("more keys in the agent than sshd takes, and IdentitiesOnly",
         NODE + "  IdentitiesOnly yes\n", agent=STRANGERS),
    Case("ConnectionAttempts, TCPKeepAlive, BindInterface",
         NODE + "  ConnectionAttempts 2\n  TCPKeepAlive no\n  BindInterface lo\n"),
    Case("PubkeyAuthentication no", NODE + "  PubkeyAuthentication no\n", works=False),
    Case("HostKeyAlias", NODE + "  HostKeyAlias the-node\n  UserKnownHostsFile {dir}/aliased\n"),
    Case("HostKeyAlias that is not known", NODE + "  HostKeyAlias other\n", works=False),
    Case("known without the port", NODE + "  UserKnownHostsFile {dir}/portless\n"),
    Case("hashed known_hosts", NODE + "  UserKnownHostsFile {dir}/hashed\n"),
    Case("several known_hosts", NODE + "  UserKnownHostsFile {dir}/empty {dir}/known\n"),
    Case("a blank in UserKnownHostsFile", NODE + '  UserKnownHostsFile "{dir}/with blank" {dir}/empty\n'),
    Case("a token in UserKnownHostsFile", NODE + "  UserKnownHostsFile {dir}/%n.known\n"),
    Case("GlobalKnownHostsFile", NODE + "  GlobalKnownHostsFile {dir}/known\n  UserKnownHostsFile none\n"),
    Case("an unknown host key", NODE + "  UserKnownHostsFile {dir}/jumps\n", works=False),
    Case("a changed host key", NODE + "  UserKnownHostsFile {dir}/changed\n", works=False),
    Case("a revoked host key", NODE + "  UserKnownHostsFile {dir}/key-revoked\n", works=False),
    Case("RevokedHostKeys, a list", NODE + "  RevokedHostKeys {dir}/revoked-keys\n", works=False),
    Case("RevokedHostKeys, a KRL", NODE + "  RevokedHostKeys {dir}/revoked.krl\n", works=False),
    Case("RevokedHostKeys that revokes another", NODE + "  RevokedHostKeys {dir}/host_ca.pub\n"),
    Case("RevokedHostKeys that is not there", NODE + "  RevokedHostKeys {dir}/nowhere\n", works=False),
    Case("a host's certificate", CERTIFIED + "  UserKnownHostsFile {dir}/authority\n"),
    Case("a host's certificate, by its port", CERTIFIED + "  UserKnownHostsFile {dir}/authority-port\n"),
    Case("a host's certificate, by its alias",
         CERTIFIED + "  HostKeyAlias gpu.test\n  UserKnownHostsFile {dir}/authority\n"),
    Case("a host's certificate for another name",
         CERTIFIED + "  HostKeyAlias else.test\n  UserKnownHostsFile {dir}/authority\n", works=False),
    Case("a host's certificate of another authority", CERTIFIED + "  UserKnownHostsFile {dir}/other-authority\n",
         works=False),
    Case("another authority, but the key is known", CERTIFIED + "  UserKnownHostsFile {dir}/authority-and-key\n"),
    Case("a revoked authority", CERTIFIED + "  UserKnownHostsFile {dir}/authority-revoked\n", works=False),
    Case("CASignatureAlgorithms", CERTIFIED + "  UserKnownHostsFile {dir}/authority\n"
         "  CASignatureAlgorithms rsa-sha2-512\n",
         works=False),
    Case("HostKeyAlgorithms without certificates",
         CERTIFIED + "  UserKnownHostsFile {dir}/authority\n  HostKeyAlgorithms ssh-ed25519\n", works=False),
    Case("HostKeyAlgorithms that the host has not", NODE + "  HostKeyAlgorithms rsa-sha2-512\n", works=False),
    Case("an authority for a host without a certificate", NODE + "  UserKnownHostsFile {dir}/authority\n", works=False),
    Case("Ciphers, MACs, KexAlgorithms",
         NODE + "  Ciphers aes256-ctr\n  MACs hmac-sha2-512\n  KexAlgorithms ecdh-sha2-nistp256\n"),
    Case("lists that change the default", NODE + "  Ciphers -aes128*\n  KexAlgorithms ^ecdh-sha2-nistp384\n"),
    Case("Compression", NODE + "  Compression yes\n"),
    Case("AddressFamily", NODE.replace("127.0.0.1", "localhost") + "  AddressFamily inet\n  HostKeyAlias 127.0.0.1\n"
         "  UserKnownHostsFile {dir}/portless\n"),
    Case("AddressFamily of which the host has no address", NODE + "  AddressFamily inet6\n", works=False),
    Case("BindAddress", NODE + "  BindAddress 127.0.0.2\n", command="echo ${SSH_CONNECTION%% *}"),
    Case("SetEnv", NODE + '  SetEnv TESTED="two words"\n', command='echo "$TESTED"'),
    Case("ProxyJump", NODE + "  ProxyJump jump1\n" + JUMPS),
    Case("ProxyJump written out",
         NODE + "  ProxyJump {me}@127.0.0.1:{jump2}\nHost 127.0.0.1\n  IdentityFile {dir}/b\n"),
    Case("ProxyJump as a URI", NODE + "  ProxyJump ssh://{me}@127.0.0.1:{jump2}\nHost *\n  IdentityFile {dir}/b\n"),
    Case("ProxyJump over two", NODE + "  ProxyJump jump1,jump2\n" + JUMPS),
    Case("ProxyJump over two, the other way round", NODE + "  ProxyJump jump2,jump1\n" + JUMPS),
    Case("a jump host with a jump host", NODE + "  ProxyJump jump2\n" + JUMPS + "  ProxyJump jump1\n"),
    Case("ProxyJump for all but the jump host",
         JUMPS.replace("Host jump1\n", "Host jump1\n  ProxyJump none\n") + NODE + "Host *\n  ProxyJump jump1\n"),
    Case("ProxyJump none before ProxyJump", "Host gpu\n  ProxyJump none\nHost *\n  ProxyJump jump1\n" + NODE),
    Case("ProxyJump before ProxyCommand", NODE + "  ProxyJump jump1\n  ProxyCommand false\n" + JUMPS),
    Case("a jump host's HostKeyAlias",
         NODE + "  ProxyJump jump1\nHost jump1\n  HostKeyAlias [127.0.0.1]:{jump1}\n" + JUMPS),
    Case("a jump host that is not known", NODE + "  ProxyJump jump1\nHost jump1\n  UserKnownHostsFile {dir}/portless\n"
         + JUMPS, works=False),
    Case("ProxyCommand", NODE + "  ProxyCommand python3 {dir}/relay.py %h %p\n"),
    Case("ProxyCommand for a shell",
         NODE + "  ProxyCommand sh -c "
         '\'echo hello >&2; exec python3 {dir}/relay.py $0 $1\' %h %p 2>/dev/null\n'),
    Case("ProxyCommand over ssh -W", NODE + "  ProxyCommand ssh -F {config} -o BatchMode=yes -W %h:%p jump1\n" + JUMPS),
    Case("ProxyCommand that fails", NODE + "  ProxyCommand false\n", works=False),
    Case("ProxyCommand none", "Host gpu\n  ProxyCommand none\nHost *\n  ProxyCommand false\n" + NODE),
    Case("ProxyUseFdpass", NODE + "  ProxyCommand python3 {dir}/fdpass.py %h %p\n  ProxyUseFdpass yes\n"),
    Case("Include", "Include {dir}/included/*.conf\n"),
    Case("Include within Host", "Host gpu\n  Include {dir}/included/*.conf\nHost *\n  Port 1\n"),
    Case("Match host", "Match host=gpu\n  HostName 127.0.0.1\n  Port {node}\n  IdentityFile {dir}/b\n"),
    Case("Match exec", 'Match host gpu exec "false"\n  Port 1\nMatch exec "test %n = gpu"\n  Port {node}\n'
         + NODE.replace("{node}", "1")),
    Case("Match !exec and a list with a negated pattern",
         'Match !exec "false" host g*,!jump*\n  ProxyJump jump1\n' + NODE + JUMPS),
    Case("Match final, !originalhost and !exec",
         'Match final !originalhost jump1 !exec "test -S {dir}/nowhere/%r@%h:%p || false"\n'
         "  ProxyCommand python3 {dir}/relay.py %h %p\n" + NODE),
    Case("a certificate that Match exec fetches",
         'Match host gpu exec "test -f {dir}/signed-cert.pub # for %h"\n'
         "  IdentityFile {dir}/moved\n  CertificateFile {dir}/signed-cert.pub\n"
         "  ProxyCommand python3 {dir}/relay.py 127.0.0.1 %p\n" + NODE.replace("{dir}/a", "none")),
    Case("Match originalhost, user and localuser",
         "Match originalhost gpu localuser {me}\n  Port {node}\nMatch user nobody-here\n  Port 1\n" + NODE),
    Case("Match final", NODE + "Match final host 127.0.0.1\n  IdentityFile {dir}/b\n  Port 1\n"),
    Case("CanonicalizeHostname and Match canonical",
         NODE.replace("  Port {node}\n", "") + "  CanonicalizeHostname always\nMatch canonical\n  Port {node}\n"),
    Case("the inventory's port", NODE.replace("{node}", "1"), {"port": "{node}"}),
    Case("the inventory's key", NODE, {"key": "{dir}/b"}),
    Case("the inventory's jump host", NODE + "  ProxyJump jump2\n" + JUMPS, {"jump": "jump1"}),
    Case("the inventory's jump hosts", NODE + JUMPS, {"jump": "jump2,{me}@jump1:{jump1}"}),
    Case("the inventory's jump none", NODE + "  ProxyJump jump2\n" + JUMPS, {"jump": "none"}),
    Case("the inventory's jump before ProxyCommand", NODE + "  ProxyCommand false\n" + JUMPS, {"jump": "jump1"}),
    Case("no Host block", "", {"port": "{node}", "key": "{dir}/a"}, host="127.0.0.1"),
]  # fmt: skip

OTHER_USER = [
    Case("User", NODE.replace("/a", "/signed") + "  User daemon\n"),
    Case("the inventory's user", NODE.replace("/a", "/signed") + "  User nobody\n", {"user": "daemon"}),
    Case("Match user of the inventory", "Match user daemon\n  IdentityFile {dir}/signed\n" + NODE, {"user": "daemon"}),
    Case("User of a jump host", NODE + "  ProxyJump daemon@jump1\n" + JUMPS.replace("/b", "/signed")),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"))
    folder = made.folder
    for copy in ("gpu.key", "the key"):
        shutil.copy(folder / "a", folder / copy)
    shutil.copy(folder / "signed", folder / "moved")
    (folder / "included").mkdir()
    (folder / "included" / "node.conf").write_text(made.text(NODE.replace("{dir}/a", "{dir}/b")), encoding="utf-8")
    made.agents.append(agent_at(folder / "agent-b", folder / "b"))
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def surroundings(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("TESTED_KEYS", str(world.folder))
    monkeypatch.setenv("TESTED_AGENT", str(world.folder / "agent-b"))
    yield


def same(world: World, case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    agent = None
    if case.agent is not None:
        agent = agent_at(tmp_path / "agent", *(world.folder / name for name in case.agent))
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    try:
        right, found = world.by_ssh(case), world.by_clusterctl(case)
        if case in OTHER_USER:  # that user's shell is nologin: what it says is no command's output
            right, found = replace(right, output=b""), replace(found, output=b"")
    finally:
        if agent is not None:
            agent.kill()
            agent.wait(20)
    assert right.worked == case.works, right.said
    assert found == right, f"clusterctl: {found}\nssh: {right}"
    assert found.worked or found.said
    if case.works:
        assert any(right.logins.values())


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_clusterctl_logs_in_as_ssh_does(
    world: World, case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    same(world, case, monkeypatch, tmp_path)


@pytest.mark.usefixtures("surroundings")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root's sshd can log in somebody else")
@pytest.mark.parametrize("case", OTHER_USER, ids=[case.name for case in OTHER_USER])
def test_clusterctl_logs_in_as_the_same_user(
    world: World, case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    same(world, case, monkeypatch, tmp_path)


WITHOUT_CLIENT = (
    "HostName, Port, IdentityFile", "two IdentityFile, the second is accepted", "IdentitiesOnly", "CertificateFile",
    "HostKeyAlias", "a host's certificate", "ProxyJump over two", "ProxyJump for all but the jump host",
    "ProxyJump none before ProxyJump", "ProxyCommand", "Match host", "the inventory's jump none", "an unknown host key",
)  # fmt: skip


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("case", [case for case in CASES if case.name in WITHOUT_CLIENT], ids=lambda case: case.name)
def test_without_a_client_too(world: World, case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As paramiko reads ssh_config, where it reads all of it."""
    monkeypatch.setattr("clusterctl.hosts.ssh.openssh.client", lambda: None)
    same(world, case, monkeypatch, tmp_path)


@pytest.mark.usefixtures("surroundings")
def test_a_proxy_command_ends_with_its_connection_and_says_why_it_failed(world: World) -> None:
    pid = world.folder / "proxy.pid"
    command = f"sh -c 'echo $$ >{pid}; echo no way through >&2; exec python3 {{dir}}/relay.py $0 $1' %h %p"
    case = Case("", NODE + f"  ProxyCommand {command}\n")
    assert world.by_clusterctl(case).worked
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()
    failing = Case("", NODE.replace("{node}", "1") + f"  ProxyCommand {command}\n")
    said = world.by_clusterctl(failing).said
    assert "no way through" in said
    assert "through its ProxyCommand" in said
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()


@pytest.mark.usefixtures("surroundings")
def test_the_printed_command_reaches_the_same_machine(world: World) -> None:
    """`ssh -v …` of a hint, run as it is printed."""
    case = Case("", NODE + "  HostKeyAlias the-node\n  UserKnownHostsFile {dir}/aliased\n", {"key": "{dir}/b"})
    node = Node(name="gpu", host="gpu", key=world.folder / "b")
    found = routes([node], SshDefaults(config=world.config(case)), Timeouts())["gpu"]
    words = shlex.split(command_to(hops_of(found, 10), "-oBatchMode=yes"))
    argv = [*words, "echo", "in"]
    done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=False)
    assert done.stdout == b"in\n", done.stderr


def test_there_are_enough_of_them() -> None:
    assert len([case for case in CASES if case.works]) >= 40
