"""Podman's door: what it says of itself, and what it does otherwise than Docker, over a real sshd whose `podman` is a
script. The engine itself answers in tests/lab/test_podman.py."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterctl.facts.gather import PROBE
from clusterctl.facts.parse import ABSENT, sections
from clusterctl.facts.system import Services, services
from clusterctl.hosts.engine.answers import info_of
from clusterctl.hosts.engine.commands import PODMAN
from clusterctl.hosts.engine.engine import EngineError
from clusterctl.hosts.engine.podman import CDI_DIRECTORIES, PodmanEngine
from clusterctl.hosts.host import Hosts
from tests.unit.sshd import SSHD, Sshd, inventory_of, keygen

needs_sshd = pytest.mark.skipif(SSHD is None, reason="no sshd on this machine (Debian: apt-get install openssh-server)")
REFUSED = '{"cause":"container state improper","message":"can only create exec sessions on running containers"}'
CONTAINER = '{"Id":"4f","Name":"/demo-node","State":{"Status":"STATUS","Running":RUNNING,"Error":"old"},"Config":{}}'
ANSWERS = """end=$(printf '\\r')
while read -r method path rest; do
  length=0
  while read -r name value && [ "$name" != "$end" ]; do
    case $name in [Cc]ontent-[Ll]ength:) length=${value%"$end"} ;; esac
  done
  dd bs=1 count="$length" >/dev/null 2>&1
  echo "$method $path" >>"$0.asked"
  code=200
  case $path in
    */version) body='{"ApiVersion":"1.41"}' ;;
    */info) body='{"ServerVersion":"5.4.2","BuildahVersion":"1.39.3","CDISpecDirs":null,"Rootless":true}' ;;
    */json*) body='CONTAINER' ;;
    *) code=500 body='REFUSED' ;;
  esac
  printf 'HTTP/1.1 %s Said\\r\\nContent-Length: %s\\r\\n\\r\\n%s' "$code" "${#body}" "$body"
done"""
Door = Callable[[str], PodmanEngine]


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """gpu1's engine, whose one container has the given status, and which refuses whatever changes something."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    key, podman = tmp_path / "key", tmp_path / "bin/podman"
    keygen(key)
    podman.parent.mkdir()
    node = Sshd(tmp_path / "node", key, SetEnv=f"PATH={podman.parent}:/usr/bin:/bin")
    described = inventory_of(tmp_path, key, node.known, {"gpu1": node.port}, {"connect_s": 10, "command_s": 20})
    container = described.container.model_copy(update={"engine": "podman"})
    with Hosts(described.model_copy(update={"container": container})) as hosts:

        def opened(status: str) -> PodmanEngine:
            running = "true" if status == "running" else "false"
            script = (
                ANSWERS.replace("REFUSED", REFUSED)
                .replace("CONTAINER", CONTAINER)
                .replace("STATUS", status)
                .replace("RUNNING", running)
            )
            podman.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
            podman.chmod(0o755)
            engine = hosts.one("gpu1").engine
            assert isinstance(engine, PodmanEngine)
            return engine

        yield opened
    node.kill()


@needs_sshd
@pytest.mark.timeout(60)
def test_podman_says_what_it_is(door: Door) -> None:
    info = door("running").info()
    assert (info.kind, info.version, info.rootless, info.cdi_directories) == ("podman", "5.4.2", True, CDI_DIRECTORIES)


@needs_sshd
@pytest.mark.timeout(60)
@pytest.mark.parametrize(("status", "error"), [("running", ""), ("exited", "old")])
def test_a_container_that_runs_has_no_reason_for_not_starting(door: Door, status: str, error: str) -> None:
    found = door(status).container("demo-node")
    assert found is not None
    assert found.error == error


@needs_sshd
@pytest.mark.timeout(60)
@pytest.mark.parametrize(("status", "expected"), [("running", 500), ("exited", 409)])
def test_a_command_in_a_container_that_does_not_run_is_refused_as_docker_does(
    door: Door, status: str, expected: int
) -> None:
    with pytest.raises(EngineError) as caught:
        door(status).exec("demo-node", ["true"], environment={}, stdin=False)
    assert caught.value.status == expected


def asked(tmp_path: Path) -> list[str]:
    """What the engine was asked for, as METHOD and the last part of the path."""
    lines = (tmp_path / "bin/podman.asked").read_text(encoding="ascii").splitlines()
    return [f"{line.split()[0]} {line.split()[1].split('?')[0].rsplit('/', 1)[-1]}" for line in lines]


@needs_sshd
@pytest.mark.timeout(60)
def test_what_runs_is_left_alone_without_force(door: Door, tmp_path: Path) -> None:
    door("running").remove("demo-node", force=False)
    assert "POST kill" not in asked(tmp_path)


@needs_sshd
@pytest.mark.timeout(60)
def test_what_cannot_be_removed_though_it_does_not_run_is_an_error(door: Door) -> None:
    with pytest.raises(EngineError):
        door("exited").remove("demo-node", force=False)


@needs_sshd
@pytest.mark.timeout(60)
def test_with_force_it_is_killed_before_it_is_removed(door: Door, tmp_path: Path) -> None:
    with pytest.raises(EngineError):
        door("running").remove("demo-node")
    said = asked(tmp_path)
    assert said.index("POST kill") < said.index("DELETE demo-node")


def test_which_engine_answers_is_known_whatever_it_is_called() -> None:
    assert info_of({"BuildahVersion": "1.39.3"}).kind == "podman"
    assert (info_of({}).kind, info_of({}).rootless) == ("docker", False)
    assert info_of({"SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"]}).rootless


def test_podmans_commands_are_its_own() -> None:
    assert PODMAN.status == "systemctl status podman.socket"
    assert PODMAN.restart_all == PODMAN.restart == "systemctl restart podman.socket"
    assert "group" not in PODMAN.permit("USER"), "there is none"
    assert PODMAN.give_gpus in PODMAN.switch_cdi_on


def test_the_probe_finds_podmans_units_and_what_a_login_may_do(tmp_path: Path) -> None:
    home = tmp_path / "home"

    def read() -> Services:
        environment = {"PATH": "/usr/bin:/bin", "CLUSTERCTL_ROOT": str(tmp_path), "HOME": str(home)}
        argv = ["sh", "-s", "--", "/nowhere"]
        done = subprocess.run(argv, input=PROBE, capture_output=True, env=environment, check=False, timeout=60)
        found = services(sections(done.stdout.decode()))
        assert isinstance(found, Services)
        return found

    assert read() == Services()
    wants = tmp_path / "etc/systemd/system/default.target.wants"
    wants.mkdir(parents=True)
    (wants / "podman-restart.service").symlink_to("/usr/lib/systemd/system/podman-restart.service")
    own = home / ".config/systemd/user/default.target.wants"
    own.mkdir(parents=True)
    port = tmp_path / "proc/sys/net/ipv4/ip_unprivileged_port_start"
    port.parent.mkdir(parents=True)
    port.write_text("80\n", encoding="ascii")
    assert read() == Services(restarts=True, first_port=80)
    (own / "podman-restart.service").symlink_to("/usr/lib/systemd/user/podman-restart.service")
    assert read().user_restarts


def test_the_probe_tells_podman_without_its_service_from_none(tmp_path: Path) -> None:
    def asked(path: str) -> tuple[str, int]:
        environment = {"PATH": path, "CLUSTERCTL_ROOT": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
        argv = ["sh", "-s", "--", "/nowhere"]
        done = subprocess.run(argv, input=PROBE, capture_output=True, env=environment, check=False, timeout=60)
        section = sections(done.stdout.decode())["podman_socket"]
        return section.text, section.exit_code

    (tmp_path / "podman").write_text("#!/bin/sh\n", encoding="ascii")
    (tmp_path / "podman").chmod(0o755)
    text, code = asked(f"{tmp_path}:/usr/bin:/bin")
    assert (text.splitlines()[-1].endswith("/podman/podman.sock"), code) == (True, ABSENT)
