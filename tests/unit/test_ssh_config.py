"""How nodes are reached, as `clusterctl nodes` says it: against `ssh -G` of the same files, and without a client."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from clusterctl.cli.main import cli
from clusterctl.errors import UsageError
from clusterctl.hosts.ssh import openssh, options, without_client
from clusterctl.hosts.ssh.asked import Asked, parsed_jump
from clusterctl.hosts.ssh.route import routes
from clusterctl.hosts.ssh.settings import Settings, settings_of
from clusterctl.hosts.ssh.tokens import home
from clusterctl.inventory.model import Node, SshDefaults, Timeouts
from tests.unit.support import BASE, FIXTURES
from tests.unit.test_ssh_config_logins import CASES, OTHER_USER

CONFIGS = sorted(path for path in (FIXTURES / "ssh_config").iterdir() if path.is_file())
SSH = shutil.which("ssh")

pytestmark = [pytest.mark.skipif(SSH is None, reason="needs OpenSSH's client"), pytest.mark.timeout(60)]


def inventory_file(folder: Path, ssh: dict[str, Any], *nodes: dict[str, Any]) -> Path:
    named = [{"name": f"gpu{number}", **node} for number, node in enumerate(nodes, 1)]
    path = folder / "inventory.yaml"
    path.write_text(yaml.safe_dump({**BASE, "ssh": ssh, "nodes": named}), encoding="utf-8")
    return path


def nodes(path: Path, *words: str) -> Any:
    """What `clusterctl nodes` ends with; an error of clusterctl is raised as it is."""
    done = CliRunner().invoke(cli, ["-i", str(path), "nodes", *words], catch_exceptions=True)
    if isinstance(done.exception, Exception):
        raise done.exception
    return done


def said_by_ssh(*words: str) -> dict[str, str] | None:
    done = subprocess.run(["ssh", "-G", *words], capture_output=True, text=True, timeout=20, check=False)
    return (
        dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line) if done.returncode == 0 else None
    )


@pytest.mark.parametrize("config", CONFIGS, ids=[path.name for path in CONFIGS])
@pytest.mark.parametrize("host", ["gpu-a", "bastion", "other"])
@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({}, []),
        ({"port": 2222, "user": "ops"}, ["-p", "2222", "-l", "ops"]),
        ({"jump": "ops@login.example.net:2200"}, ["-J", "ops@login.example.net:2200"]),
        ({"jump": "none"}, ["-J", "none"]),
    ],
    ids=["as it is", "port and user", "jump", "no jump"],
)
def test_nodes_says_what_ssh_says(
    config: Path, host: str, node: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    right = said_by_ssh("-F", str(config), *words, host)
    path = inventory_file(tmp_path, {"config": str(config)}, {"host": host, **node})
    if right is None:
        with pytest.raises(UsageError, match=rf"{config}:? line \d+"):
            nodes(path, "--json")
        return
    found = json.loads(nodes(path, "--json").stdout)["nodes"][0]
    assert (found["name"], found["host"]) == ("gpu1", host)
    assert {name: found[name] for name in ("hostname", "user", "port", "jump", "proxy_command", "host_key_alias")} == {
        "hostname": right["hostname"],
        "user": right["user"],
        "port": int(right["port"]),
        "jump": right.get("proxyjump"),
        "proxy_command": right.get("proxycommand"),
        "host_key_alias": right.get("hostkeyalias"),
    }
    assert found["known_hosts"] == right["userknownhostsfile"].split()
    assert all(Path(file).is_absolute() for file in found["identity_files"])


def test_files_are_absolute_and_the_inventorys_come_first(tmp_path: Path) -> None:
    config, key = tmp_path / "config", tmp_path / "key"
    config.write_text(
        "Host gpu-a\n  IdentityFile ~/one\n  IdentityFile %d/two\n  HostKeyAlias the-node\n  ProxyCommand relay %h %p\n"
        f'  UserKnownHostsFile "{tmp_path}/a b" ~/known\n',
        encoding="utf-8",
    )
    (tmp_path / "a b").touch()
    key.touch()
    path = inventory_file(tmp_path, {"config": "config", "key": "key"}, {"host": "gpu-a"})
    found = json.loads(nodes(path, "--json").stdout)["nodes"][0]
    login = home()
    assert found["identity_files"] == [str(key), f"{login}/one", f"{login}/two"]
    assert found["known_hosts"] == [f"{tmp_path}/a b", f"{login}/known"]
    assert (found["host_key_alias"], found["proxy_command"]) == ("the-node", "relay %h %p")
    path = inventory_file(tmp_path, {"config": "config", "known_hosts": "mine"}, {"host": "gpu-a"})
    assert json.loads(nodes(path, "--json").stdout)["nodes"][0]["known_hosts"] == [str(tmp_path / "mine")]


def test_a_key_of_the_inventory_that_is_not_there_is_not_replaced_by_others(tmp_path: Path) -> None:
    (tmp_path / "config").touch()
    path = inventory_file(tmp_path, {"config": "config", "key": "nowhere"}, {"host": "gpu-a"})
    assert json.loads(nodes(path, "--json").stdout)["nodes"][0]["identity_files"] == [str(tmp_path / "nowhere")]


def test_the_table_names_the_way(tmp_path: Path) -> None:
    config = FIXTURES / "ssh_config" / "wildcard"
    lines = nodes(inventory_file(tmp_path, {"config": str(config)}, {"host": "gpu-a"})).stdout.splitlines()
    assert lines[0].split() == ["NODE", "HOST", "LOGIN", "THROUGH", "KEYS", "KNOWN", "AS", "KNOWN", "HOSTS"]
    assert lines[1].split()[:4] == ["gpu1", "gpu-a", "svc@gpu-a:22", "svc@bastion.example.net:22"]


def test_this_machine_has_no_way(tmp_path: Path) -> None:
    path = inventory_file(tmp_path, {}, {"host": "localhost"})
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    del data["ssh"]
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    found = json.loads(nodes(path, "--json").stdout)["nodes"][0]
    assert (found["host"], found["hostname"], found["identity_files"]) == ("localhost", None, [])
    assert "this machine" in nodes(path).stdout


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("Host *\n  ProxyJump bastion\n", "gpu-a → bastion → bastion"),
        ("Host gpu-a\n  ProxyJump b\nHost b\n  ProxyJump c\nHost c\n  ProxyJump b\n", "gpu-a → b → c → b"),
        ("Host *\n  ProxyJump one,two\n", "gpu-a → two → one → two"),
    ],
)
@pytest.mark.parametrize("with_client", [True, False])
def test_jump_hosts_in_a_circle_are_refused(
    text: str, way: str, with_client: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_client:
        monkeypatch.setattr(openssh, "client", lambda: None)
    (tmp_path / "config").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        nodes(inventory_file(tmp_path, {"config": "config"}, {"host": "gpu-a"}))
    assert caught.value.exit_code == 2
    assert way in caught.value.message
    assert "ProxyJump none" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Host *\n  Foo bar\n", "line 2: Bad configuration option: foo"),
        ("Host *\n  Port many\n", "line 2: Bad port 'many'"),
        ("Host *\n\n  AddressFamily ipx\n", "line 3"),
        ("Match nonsense x\n", "line 1"),
    ],
)
def test_what_openssh_refuses_is_named_with_file_and_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        nodes(inventory_file(tmp_path, {"config": "config"}, {"host": "gpu-a"}))
    assert caught.value.exit_code == 2
    assert str(tmp_path / "config") in caught.value.message
    assert said in caught.value.message


def test_a_config_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        nodes(inventory_file(tmp_path, {"config": "nowhere"}, {"host": "gpu-a"}))


def test_a_match_exec_that_hangs_is_given_up_and_ended(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    config = tmp_path / "config"
    config.write_text(f'Match exec "echo $$ > {mark}; exec sleep 321"\n  Port 1\n', encoding="utf-8")
    with pytest.raises(UsageError, match="did not end within 2 s"):
        openssh.ask(str(SSH), Asked("gpu-a", config=config), 2)
    assert not Path(f"/proc/{mark.read_text().strip()}").exists()


def test_what_is_not_supported_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        "Host *\n  StrictHostKeyChecking no\n  KnownHostsCommand /bin/true\n  ForwardAgent yes\n  LogLevel QUIET\n",
        encoding="utf-8",
    )
    done = nodes(inventory_file(tmp_path, {"config": "config"}, {"host": "gpu-a"}, {"host": "gpu-b"}))
    lines = sorted(done.stderr.splitlines())
    assert len(lines) == 2, lines
    assert lines[0].startswith("warning: ssh_config: KnownHostsCommand /bin/true is not supported")
    assert lines[1].startswith("warning: ssh_config: StrictHostKeyChecking no is not supported")
    only_one = "Host gpu-a\n  StrictHostKeyChecking accept-new\n"
    (tmp_path / "config").write_text(only_one, encoding="utf-8")
    done = nodes(inventory_file(tmp_path, {"config": "config"}, {"host": "gpu-a"}, {"host": "gpu-b"}))
    assert done.stderr.startswith("warning: ssh_config for gpu1: StrictHostKeyChecking accept-new is not supported")


def test_every_option_that_ssh_prints_has_its_place() -> None:
    printed = set(openssh.defaults(str(SSH)))
    named = {name.lower() for name in options.BECAUSE}
    assert printed - options.HONOURED - options.IRRELEVANT - named == set()
    groups = (options.HONOURED, options.IRRELEVANT, named)
    assert sum(map(len, groups)) == len(frozenset().union(*groups)), "each is in one group"


def test_defaults_are_never_complained_of(tmp_path: Path) -> None:
    (tmp_path / "config").touch()
    assert nodes(inventory_file(tmp_path, {"config": "config"}, {"host": "gpu-a"})).stderr == ""


@pytest.mark.parametrize(
    ("jump", "parsed"),
    [
        ("bastion", (None, "bastion", None)),
        ("ops@bastion:2200", ("ops", "bastion", 2200)),
        ("[2001:db8::1]:22", (None, "2001:db8::1", 22)),
        ("2001:db8::1", (None, "2001:db8::1", None)),
        ("a@b@bastion", ("a@b", "bastion", None)),
        ("ssh://ops@bastion:2200", ("ops", "bastion", 2200)),
    ],
)
def test_jump_hosts_are_read(jump: str, parsed: tuple[str | None, str, int | None]) -> None:
    assert parsed_jump(jump) == parsed


# Without a client


def compared(found: Settings) -> dict[str, object]:
    names = ("hostname", "port", "user", "proxy_argument", "host_key_alias", "known_hosts", "identities_only")
    return {name: getattr(found, name) for name in names} | {
        "jump": [parsed_jump(jump) for jump in found.jump.split(",")] if found.jump else None,
        "identity_files": [file for file in found.identity_files if ".ssh" not in file.parts],
    }


TEXTS = {case.name: (case.config + case.tail, case.host) for case in (*CASES, *OTHER_USER)} | {
    path.name: (path.read_text(encoding="utf-8"), "gpu-a") for path in CONFIGS
}


@pytest.mark.parametrize("name", TEXTS)
def test_without_a_client_every_difference_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, host = TEXTS[name]
    monkeypatch.setenv("TESTED_KEYS", str(tmp_path))
    monkeypatch.setenv("TESTED_AGENT", str(tmp_path / "agent"))
    places = {"node": "2221", "certified": "2222", "jump1": "2223", "jump2": "2224", "dir": str(tmp_path), "me": "me"}
    places |= {"known": f"{tmp_path}/known", "config": f"{tmp_path}/config"}
    for place, value in places.items():
        text = text.replace(f"{{{place}}}", value)
    config = tmp_path / "config"
    config.write_text(text, encoding="utf-8")
    (tmp_path / "with blank").touch()
    asked = Asked(host, config=config)
    try:
        reading = without_client.read(config)
        found = settings_of(asked, reading.answer(asked), {})
    except UsageError as error:
        assert str(config) in error.message
        assert "OpenSSH client" in str(error.hint)
        return
    try:
        right = settings_of(asked, openssh.ask(str(SSH), asked, 20), openssh.defaults(str(SSH)))
    except UsageError:
        assert reading.differences
        return
    if compared(found) != compared(right):
        assert reading.differences, f"paramiko: {compared(found)}\nssh: {compared(right)}"
        assert all(difference.startswith(f"{config}:") for difference in reading.differences)


def test_without_a_client_what_is_not_read_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openssh, "client", lambda: None)
    config = FIXTURES / "ssh_config" / "include"
    done = nodes(inventory_file(tmp_path, {"config": str(config)}, {"host": "gpu-a"}))
    assert f"{config}:1: Include is not followed" in done.stderr
    plain = FIXTURES / "ssh_config" / "jumpnone"
    done = nodes(inventory_file(tmp_path, {"config": str(plain)}, {"host": "gpu-a"}), "--json")
    assert done.stderr == ""
    found = json.loads(done.stdout)["nodes"][0]
    assert (found["hostname"], found["port"], found["jump"]) == ("10.20.0.11", 22, None)


def test_an_ssh_that_is_not_openssh_is_no_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "ssh"
    other.write_text("#!/bin/sh\necho 'Unknown option -G' >&2\nexit 1\n", encoding="ascii")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert openssh.client() is None
    (tmp_path / "config").write_text("Host gpu-a\n  Port 2222\n", encoding="utf-8")
    node = Node(name="gpu1", host="gpu-a")
    found = routes([node], SshDefaults(config=tmp_path / "config"), Timeouts())["gpu1"]
    assert found.hops[0].port == 2222
