"""Compiled code that outlives the container: who keeps it where, how large it gets, who removes it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import cache_from_source
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clusterctl.actions.down import DownResult
from clusterctl.agent.inside import cache as inside
from clusterctl.agent.inside.journal import Journal
from clusterctl.agent.state import CacheState, agent_state
from clusterctl.apply.cache import cache_volume, make_cache, remove_cache
from clusterctl.facts.records import CacheVolume
from clusterctl.findings.topics.machine import GIB
from clusterctl.hosts.engine.commands import DOCKER
from clusterctl.hosts.engine.engine import EngineError, Volume
from clusterctl.hosts.engine.volumes import DockerVolumes
from clusterctl.hosts.host import Host
from clusterctl.planning.cache import cache_binds, cache_place, cache_source, keeps_volume
from clusterctl.status.status import CacheStatus, cluster_status
from clusterctl.ui import render
from tests.unit.support import cluster_facts, container, inventory, specs, with_containers

OWN, OTHER, OLDEST = "a" * 16, "b" * 16, "c" * 16
OURS = {"clusterctl.cluster": "demo"}


# What is planned.


def test_the_volume_is_a_mount_of_every_serving_container_and_the_agent_is_told_its_image() -> None:
    for spec in specs().values():
        assert spec.host_config["binds"][-1] == "demo-cache:/var/cache/clusterctl"
    place = cache_place(inventory(), f"sha256:{OWN}{'0' * 48}")
    assert place == {"path": "/var/cache/clusterctl", "image": OWN}


@pytest.mark.parametrize(
    "settings",
    [
        {"cache": "off"},
        {"volumes": ["/var/cache/vllm:/root/.cache/vllm"]},
        {"volumes": ["/scratch:/root/.cache:Z"]},
        {"env": {"VLLM_CACHE_ROOT": "/elsewhere"}},
    ],
)
def test_nothing_is_kept_where_it_is_off_or_the_operator_has_a_place_for_it(settings: Mapping[str, Any]) -> None:
    asked = inventory({"container": settings})
    assert (cache_binds(asked), cache_place(asked, OWN)) == ((), None)


def test_the_operators_own_directory_on_the_same_path_is_used_instead_of_a_volume() -> None:
    asked = inventory({"container": {"volumes": ["/scratch/compiled:/var/cache/clusterctl"]}})
    assert (cache_binds(asked), keeps_volume(asked), cache_source(asked)) == ((), False, "/scratch/compiled")
    assert cache_place(asked, OWN) is not None
    assert cache_source(inventory()) == "demo-cache"


def test_another_limit_replaces_no_container() -> None:
    one, two = (specs({"container": {"cache_max_bytes": size * GIB}})["gpu1"] for size in (1, 2))
    assert one.hash == two.hash
    assert one.files != two.files


# What the agent does.


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setattr("clusterctl.agent.inside.journal.STATE_DIR", tmp_path / "run")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return Journal("gpu1", "head")


def kept(root: Path, name: str, size: int, used_t: float) -> None:
    (root / name / "vllm").mkdir(parents=True)
    (root / name / "vllm" / "artifact").write_bytes(os.urandom(size))
    os.utime(root / name, (used_t, used_t))


def prepared(journal: Journal, root: Path, max_bytes: int = GIB, **environment: str) -> dict[str, str]:
    inside.Cache(journal, {"path": str(root), "image": OWN}).prepare(environment, max_bytes)
    return environment


def test_the_servers_processes_compile_into_the_images_own_directory(journal: Journal, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    root.mkdir()
    kept(root, OTHER, 8192, 1)
    found = prepared(journal, root, TRITON_CACHE_DIR="/mine")
    assert found["VLLM_CACHE_ROOT"] == f"{root}/{OWN}/vllm"
    assert found["TRITON_CACHE_DIR"] == "/mine"  # the operator's
    assert [(root / name).stat().st_mode & 0o777 for name in (".", OWN)] == [0o700, 0o700]
    state = agent_state(journal.state).cache
    assert state is not None
    assert (state.path, state.problem) == (f"{root}/{OWN}", None)
    assert state.bytes is not None and state.bytes >= 8192


def test_what_an_image_brings_along_in_the_usual_place_stays_in_use(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "home" / ".cache" / "flashinfer" / "cubins").mkdir(parents=True)
    (tmp_path / "cache").mkdir()
    found = prepared(journal, tmp_path / "cache")
    assert "FLASHINFER_WORKSPACE_BASE" not in found
    assert "TRITON_CACHE_DIR" in found


def test_images_that_were_not_used_for_longest_lose_theirs_and_nothing_else_is_touched(
    journal: Journal, tmp_path: Path
) -> None:
    kept(tmp_path, OLDEST, 100_000, 1)
    kept(tmp_path, OTHER, 100_000, 2)
    kept(tmp_path, OWN, 100_000, 0)
    kept(tmp_path, "somebody-elses", 100_000, 0)
    prepared(journal, tmp_path, max_bytes=250_000)
    assert {each.name for each in tmp_path.iterdir()} >= {OTHER, OWN, "somebody-elses"}
    assert not (tmp_path / OLDEST).exists()
    prepared(journal, tmp_path, max_bytes=50_000)  # even its own, which is then compiled once more
    assert list((tmp_path / OWN).iterdir()) == []
    assert not (tmp_path / OTHER).exists()
    assert (tmp_path / "somebody-elses" / "vllm" / "artifact").exists()


def test_the_directory_that_is_used_now_was_used_last(journal: Journal, tmp_path: Path) -> None:
    kept(tmp_path, OWN, 10, 1)
    kept(tmp_path, OTHER, 10, 1_000_000)
    prepared(journal, tmp_path)
    assert (tmp_path / OWN).stat().st_mtime > (tmp_path / OTHER).stat().st_mtime


def test_a_directory_that_cannot_be_written_is_said_and_the_server_compiles_as_ever(
    journal: Journal, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("no directory")  # also for root, whom no mode keeps out
    found = prepared(journal, tmp_path / "cache")
    assert found == {"VLLM_CACHE_ROOT": f"{tmp_path}/home/.cache/vllm"}
    state = agent_state(journal.state).cache
    assert state is not None and state.bytes is None
    assert "Not a directory" in str(state.problem)
    assert '"event": "cache-unusable"' in capfd.readouterr().err


def test_without_a_cache_nothing_is_set(journal: Journal) -> None:
    environment: dict[str, str] = {}
    inside.Cache(journal, None).prepare(environment, GIB)
    assert environment == {}
    assert "cache" not in journal.state


@pytest.mark.parametrize("has_bytecode", [True, False])
def test_bytecode_is_kept_only_for_an_image_that_has_none(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_bytecode: bool
) -> None:
    site = tmp_path / "site"
    (site / "large_module").mkdir(parents=True)
    source = site / "large_module" / "__init__.py"
    source.write_text("")
    if has_bytecode:
        bytecode = Path(cache_from_source(str(source)))
        bytecode.parent.mkdir()
        bytecode.write_bytes(b"")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(inside, "LARGE_MODULES", ("large_module", "no_such_module"))
    (tmp_path / "cache").mkdir()
    found = prepared(journal, tmp_path / "cache", PYTHONDONTWRITEBYTECODE="1")
    assert ("PYTHONPYCACHEPREFIX" not in found) is has_bytecode
    assert ("PYTHONDONTWRITEBYTECODE" in found) is has_bytecode


# The engine's volume.


@dataclass
class Api:
    """The part of Docker's API that volumes need, as the SDK's client has it."""

    volumes: dict[str, dict[str, Any]] = field(default_factory=dict)
    sticky: bool = False

    def inspect_volume(self, name: str) -> dict[str, Any]:
        if name not in self.volumes:
            raise EngineError("gpu1", "no such volume", status=404)
        return self.volumes[name]

    def create_volume(self, name: str, labels: dict[str, str]) -> dict[str, Any]:
        return self.volumes.setdefault(name, {"Name": name, "Mountpoint": f"/volumes/{name}", "Labels": labels})

    def remove_volume(self, name: str) -> None:
        self.inspect_volume(name)
        if not self.sticky:
            del self.volumes[name]


def host_of(api: Api) -> Host:
    volumes = DockerVolumes(lambda _, call: call(api), lambda _, call: call(api))
    return cast(Host, SimpleNamespace(name="gpu1", engine=SimpleNamespace(volumes=volumes, commands=DOCKER)))


def test_the_volume_is_made_once_kept_and_removed() -> None:
    api = Api()
    host = host_of(api)
    for _ in range(2):
        make_cache(host, inventory())
    assert cache_volume(host, inventory()) == Volume("demo-cache", "/volumes/demo-cache", OURS)
    assert remove_cache(host, inventory()) == Volume("demo-cache", "/volumes/demo-cache", OURS)
    assert (remove_cache(host, inventory()), api.volumes) == (None, {})
    make_cache(host, inventory({"container": {"cache": "off"}}))
    assert api.volumes == {}


def test_a_volume_of_somebody_elses_is_neither_used_nor_removed() -> None:
    api = Api({"demo-cache": {"Name": "demo-cache", "Labels": None}})
    with pytest.raises(EngineError, match="not made by clusterctl") as caught:
        make_cache(host_of(api), inventory())
    assert "docker volume rm demo-cache" in str(caught.value.hint)
    assert remove_cache(host_of(api), inventory()) is None
    assert "demo-cache" in api.volumes


def test_a_volume_that_stays_is_no_success() -> None:
    api = Api(sticky=True)
    make_cache(host_of(api), inventory())
    with pytest.raises(EngineError, match="still there"):
        remove_cache(host_of(api), inventory())


# What is said of it.


def test_down_names_what_stays_and_what_was_removed() -> None:
    kept_on = DownResult("demo", {"gpu1": ("demo-node",)}, 1.0, {"gpu1": "demo-cache", "gpu2": "demo-cache"}, {})
    assert "volume demo-cache on gpu1, gpu2 (down --purge removes it)" in render.down_result(kept_on)
    purged = DownResult("demo", {"gpu1": ()}, 1.0, {}, {"gpu1": "demo-cache"})
    assert "removed: compiled code, volume demo-cache on gpu1" in render.down_result(purged)


def test_status_shows_size_and_place_also_when_it_is_down() -> None:
    agent = {"phase": "serving", "cache": {"path": f"/var/cache/clusterctl/{OWN}", "bytes": 3 * GIB, "problem": None}}
    facts = with_containers(
        cluster_facts({"gpu1": {"cache": CacheVolume("demo-cache", "/volumes/demo-cache")}}),
        {"gpu1": (container(specs()["gpu1"], state=agent),)},
    )
    found = cluster_status(inventory(), facts, None, None)
    assert found.nodes[0].cache == CacheStatus("demo-cache", "/volumes/demo-cache", 3 * GIB, 20 * GIB, None)
    assert found.nodes[1].cache is None
    shown = "gpu1: demo-cache (/volumes/demo-cache): 3.0 GiB, at most 20.0 GiB when a container starts"
    assert shown in render.status(found)
    down = cluster_status(inventory(), with_containers(facts, {"gpu1": ()}), None, None)
    assert down.nodes[0].cache == CacheStatus("demo-cache", "/volumes/demo-cache", None, 20 * GIB, None)


def test_status_says_why_it_cannot_be_used() -> None:
    agent = {"phase": "serving", "cache": {"path": "/x", "bytes": None, "problem": "Read-only file system"}}
    assert agent_state(agent).cache == CacheState("/x", None, "Read-only file system")
    facts = with_containers(cluster_facts(), {"gpu1": (container(specs()["gpu1"], state=agent),)})
    text = render.status(cluster_status(inventory(), facts, None, None))
    assert "gpu1: demo-cache: cannot be used: Read-only file system" in text
