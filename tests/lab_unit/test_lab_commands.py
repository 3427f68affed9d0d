"""What `clusterctl lab` refuses, and what it finds on the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from click.testing import CliRunner

from clusterctl.errors import ClusterctlError, UsageError
from clusterctl.lab import cgroups, lab, network, packages, power
from clusterctl.lab import cli as commands
from clusterctl.lab.commands import CommandError, run
from clusterctl.lab.state import LabPaths, LabSpec, write_whole

needs_root = pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="the lab refuses anyone but root")


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLUSTERCTL_LAB_ROOT", str(tmp_path / "state"))
    return tmp_path / "state"


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UsageError, match="needs Linux"):
        lab.up("drill", say=print)


def test_other_users_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for command in (
        lambda: lab.up("drill", say=print),
        lambda: lab.open_lab("drill"),
        lambda: lab.down("drill", say=print),
    ):
        with pytest.raises(UsageError, match="needs root"):
            command()


@needs_root
def test_a_machine_without_the_packages_is_sent_to_setup(monkeypatch: pytest.MonkeyPatch, own_state: Path) -> None:
    monkeypatch.setattr(packages, "missing", lambda **_: ("dockerd", "debootstrap"))
    with pytest.raises(UsageError, match="dockerd, debootstrap") as raised:
        lab.up("drill", say=print)
    assert raised.value.hint == "run: clusterctl lab setup"
    assert not own_state.exists()


@needs_root
def test_setup_where_nothing_is_missing_installs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "missing", lambda **_: ())
    monkeypatch.setattr(packages, "run", lambda *_, **__: pytest.fail("something was run"))
    assert packages.setup(print) == ()


@needs_root
def test_setup_installs_only_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([("docker", "sshd"), ()])
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(packages, "missing", lambda **_: next(answers))
    monkeypatch.setattr(packages, "_exists", lambda package: package != "docker-cli")
    monkeypatch.setattr(packages, "_apt", lambda *arguments: ran.append(arguments))
    monkeypatch.setattr(packages, "POLICY", Path(__file__))  # a policy that exists is left alone
    assert packages.setup(lambda _: None) == ("docker.io", "openssh-server")
    assert ran == [("update",), ("install", "--yes", "--no-install-recommends", "docker.io", "openssh-server")]


def test_services_are_kept_from_starting_only_while_installing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(packages, "POLICY", policy)
    with packages._no_services():
        assert subprocess.run([str(policy)], check=False).returncode == 101
    assert not policy.exists()


@needs_root
def test_a_lab_stays_as_it_was_made(own_state: Path, tmp_path: Path) -> None:
    spec = LabSpec("drill", 2, 1, True, IPv4Network("10.77.5.0/24"), tmp_path / "out", "clusterctl-lab:x")
    write_whole(LabPaths(own_state, "drill").spec, spec.to_json())
    with pytest.raises(UsageError, match=r"nodes is 2, not 3; ssh-only is True, not False"):
        lab.up("drill", lab.LabOptions(nodes=3, ssh_only=False, directory=tmp_path / "out"), say=print)


@needs_root
def test_an_unknown_lab_is_named_with_those_there_are(own_state: Path) -> None:
    LabPaths(own_state, "other").home.mkdir(parents=True)
    with pytest.raises(UsageError, match=r"no lab called 'drill' \(labs here: other\)"):
        lab.open_lab("drill")


@needs_root
def test_an_unknown_node_is_named_with_those_there_are(own_state: Path, tmp_path: Path) -> None:
    spec = LabSpec("drill", 2, 1, True, IPv4Network("10.77.5.0/24"), tmp_path / "out", "clusterctl-lab:x")
    write_whole(LabPaths(own_state, "drill").spec, spec.to_json())
    with pytest.raises(UsageError, match="no node 'node3'") as raised:
        lab.power_off(lab.open_lab("drill"), "node3")
    assert raised.value.hint == "it has node1 … node2"


@needs_root
def test_down_of_a_lab_that_is_not_there_is_no_failure(own_state: Path) -> None:
    result = CliRunner().invoke(commands.lab, ["down", "--name", "nothing"])
    assert result.exit_code == 0
    assert "there is no lab called nothing" in result.output
    assert not own_state.exists()


@pytest.mark.parametrize(
    "arguments",
    [["up", "--name", "Not A Name"], ["up", "--nodes", "201"], ["up", "--subnet", "10.0.0.300/24"], ["power-off"]],
)
def test_wrong_command_lines_end_with_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(commands.lab, arguments).exit_code == 2


def test_a_node_is_recognised_by_the_init_above_which_its_parent_stands(tmp_path: Path) -> None:
    paths = LabPaths(tmp_path / "state", "drill")
    process = tmp_path / "proc" / "4711"
    (process / "task/4711").mkdir(parents=True)
    (process / "task/4711/children").write_text("4712 ")
    init = str(paths.node("node2") / power.INIT)
    for argv, expected in (
        (["/usr/bin/unshare", "--mount", "sh", init, "x"], ("node2", power.Running(4711, 4712))),
        (["sh", init, "x"], None),  # what runs inside the node
        (["unshare", "sh", str(LabPaths(tmp_path / "state", "drill2").node("node2") / power.INIT)], None),
        ([], None),  # a kernel thread
    ):
        (process / "cmdline").write_bytes(b"".join(argument.encode() + b"\0" for argument in argv))
        assert power._look(paths, process) == expected
    assert power._look(paths, tmp_path / "proc" / "4713") is None  # it ended meanwhile


@pytest.mark.parametrize(
    ("port", "expected"),
    [(None, "absent"), ({"flags": ["UP", "LOWER_UP"]}, "connected"), ({"flags": ["BROADCAST"]}, "partitioned")],
)
def test_a_cable_is_what_the_switch_sees(port: dict[str, object] | None, expected: str) -> None:
    assert network._cable(port) == expected


def test_a_group_that_is_not_there_is_gone() -> None:
    cgroups.remove("/clusterctl-lab/no-such-lab-000000/node1")


def test_a_failed_command_shows_what_was_run_and_what_it_said() -> None:
    with pytest.raises(CommandError, match=r"`sh -c 'echo no >&2; exit 3'` ended with exit code 3:\n    no"):
        run(["sh", "-c", "echo no >&2; exit 3"])
    with pytest.raises(ClusterctlError, match=r"did not end within 0\.1 s"):
        run(["sleep", "5"], timeout_s=0.1)
    with pytest.raises(ClusterctlError, match="could not be started"):
        run(["/no/such/program"])


@needs_root
@pytest.mark.parametrize("command", [lab.power_on, lab.partition, lab.heal])
def test_a_node_that_was_never_made_is_sent_back_to_up(
    command: Callable[[lab.Lab, str], None], own_state: Path, tmp_path: Path
) -> None:
    spec = LabSpec("drill", 2, 1, True, IPv4Network("10.77.5.0/24"), tmp_path / "out", "clusterctl-lab:x")
    write_whole(LabPaths(own_state, "drill").spec, spec.to_json())
    with pytest.raises(ClusterctlError, match="node1 has no disk yet") as raised:
        command(lab.open_lab("drill"), "node1")
    assert raised.value.hint == "run: clusterctl lab up --name drill"
