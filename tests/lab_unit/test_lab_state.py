"""The lab's description on disk, its lock, and the choice of its network."""

from __future__ import annotations

import json
import multiprocessing
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from clusterctl.errors import ClusterctlError, UsageError
from clusterctl.lab import network, state
from clusterctl.lab.state import LabPaths, LabSpec


def spec(**changes: object) -> LabSpec:
    values: dict[str, object] = {
        "name": "drill",
        "nodes": 3,
        "gpus": 2,
        "ssh_only": False,
        "subnet": IPv4Network("10.77.5.0/24"),
        "directory": Path("/work/.lab/drill"),
        "image": "clusterctl-lab:0123456789ab",
    }
    return LabSpec(**{**values, **changes})  # type: ignore[arg-type]


def test_a_description_survives_the_disk() -> None:
    assert LabSpec.from_json(spec().to_json()) == spec()
    assert LabSpec.from_json(spec(engine="podman").to_json()).engine == "podman"
    before = {key: value for key, value in json.loads(spec().to_json()).items() if key != "engine"}
    assert LabSpec.from_json(json.dumps(before)).engine == "docker", "of a lab that was made before there was a choice"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "subnet": "10.0.0.0/24"}'])
def test_a_broken_description_is_an_error_that_names_the_way_out(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        LabSpec.from_json(text)
    paths = LabPaths(tmp_path, "drill")
    paths.home.mkdir(parents=True)
    paths.spec.write_text(text)
    with pytest.raises(ClusterctlError) as raised:
        paths.read_spec()
    assert raised.value.hint == "run: clusterctl lab down --name drill"


def test_no_lab_is_none(tmp_path: Path) -> None:
    assert LabPaths(tmp_path, "drill").read_spec() is None


def test_nodes_count_up_from_the_start_of_the_network_and_the_host_is_its_last_address() -> None:
    members = spec(nodes=200).members
    assert [node.name for node in members[:2]] == ["node1", "node2"]
    assert members[0].address == IPv4Address("10.77.5.1")
    assert members[-1].address == IPv4Address("10.77.5.200")
    assert spec().host_address == IPv4Address("10.77.5.254")


def test_labs_of_one_name_under_two_state_roots_share_no_name_on_the_machine() -> None:
    one, other = LabPaths(Path("/var/lib/one"), "drill"), LabPaths(Path("/var/lib/other"), "drill")
    assert one.namespace_prefix != other.namespace_prefix
    assert one.cgroup != other.cgroup
    assert network.host_interface(one) != network.host_interface(other)


@pytest.mark.parametrize("name", ["a", "x" * 40])
def test_interface_names_fit_the_kernel(name: str) -> None:
    assert len(network.host_interface(LabPaths(Path("/var/lib/clusterctl-lab"), name))) <= 15


def test_the_first_free_network_is_taken() -> None:
    used = [IPv4Network("10.77.0.0/24"), IPv4Network("10.77.1.128/25"), IPv4Network("192.168.0.0/16")]
    assert network.free_subnet(used) == IPv4Network("10.77.2.0/24")
    with pytest.raises(UsageError, match="no free network"):
        network.free_subnet([IPv4Network("10.0.0.0/8")])


@pytest.mark.parametrize(
    ("cidr", "reason"),
    [("8.8.8.0/24", "not private"), ("10.1.2.0/30", "too small"), ("10.9.0.0/16", "already uses")],
)
def test_an_unusable_network_is_refused(cidr: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        network.check_subnet(IPv4Network(cidr), 2, [IPv4Network("10.9.8.0/24")])


def test_a_usable_network_is_accepted() -> None:
    network.check_subnet(IPv4Network("10.1.2.0/29"), 5, [IPv4Network("10.9.8.0/24")])


def _hold(path: Path, held: multiprocessing.synchronize.Event, release: multiprocessing.synchronize.Event) -> None:
    with state.exclusive(path, "the lab"):
        held.set()
        release.wait(30)


def test_two_commands_never_hold_the_same_lock_and_no_file_stays(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    path, held, release = tmp_path / "locks" / "drill", context.Event(), context.Event()
    other = context.Process(target=_hold, args=(path, held, release))
    other.start()
    try:
        assert held.wait(30)
        with (
            pytest.raises(ClusterctlError, match="still working on lab drill"),
            state.exclusive(path, "lab drill", wait_s=0.2),
        ):
            pass
    finally:
        release.set()
        other.join(30)
    with state.exclusive(path, "lab drill", wait_s=5):
        assert path.exists()
    assert not path.exists()


def test_who_waits_gets_the_lock_also_when_its_directory_is_removed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "locks" / "drill"

    def the_last_lab_goes(seconds: float) -> None:
        path.unlink()
        path.parent.rmdir()

    with state.exclusive(path, "lab drill"):
        monkeypatch.setattr("clusterctl.lab.state.time.sleep", the_last_lab_goes)
        with state.exclusive(path, "lab drill", wait_s=5):
            assert path.exists()


def test_a_file_appears_whole_and_with_its_mode(tmp_path: Path) -> None:
    state.write_whole(tmp_path / "deep" / "key", "secret", mode=0o600)
    assert (tmp_path / "deep" / "key").read_text() == "secret"
    assert (tmp_path / "deep" / "key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["key"]
