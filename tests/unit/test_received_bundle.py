"""`diagnose BUNDLE`: what was collected is read back, and explained without an inventory or a node."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from clusterctl.cli.main import cli
from clusterctl.diagnosis.collect import Wanted, collect
from clusterctl.diagnosis.received import received
from clusterctl.errors import UsageError
from clusterctl.hosts.host import Hosts
from clusterctl.hosts.ssh.errors import ConnectError
from tests.unit.support import inventory

INSPECTED = {
    "Id": "a" * 64,
    "Name": "/demo-node",
    "Image": "sha256:b",
    "Created": "2026-01-02T03:04:00Z",
    "Config": {"Labels": {}, "Image": "vllm:1", "Env": []},
    "State": {"Status": "exited", "Running": False, "ExitCode": 1, "StartedAt": "2026-01-02T03:04:00Z"},
    "HostConfig": {"RestartPolicy": {"Name": "no"}},
    "Mounts": [],
    "RestartCount": 0,
}
MANIFEST = {"cluster": "demo", "complete": True, "unreachable": {}, "missed": []}
LOG = (
    "2026-01-02T03:04:05.0Z (Worker pid=9) safetensors_rust.SafetensorError: Error while deserializing header: "
    "MetadataIncompleteBuffer\n"
    "2026-01-02T03:04:06.0Z (EngineCore pid=7) RuntimeError: Engine core initialization failed.\n"
)


def packed(path: Path, files: Mapping[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"clusterctl-demo-20260102T030410Z/{name}")
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return path


def whole(**changed: str) -> dict[str, str]:
    inside = "nodes/gpu1/containers/demo-node"
    return {
        "manifest.json": json.dumps(MANIFEST),
        "inventory-as-read.yaml": "head: gpu1\nnodes: [{name: gpu1}]\n",
        f"{inside}/inspect.json": json.dumps(INSPECTED),
        f"{inside}/stdout.log": LOG,
    } | changed


def test_what_was_collected_gives_the_same_causes_again(tmp_path: Path) -> None:
    hosts = Hosts(inventory())
    hosts.unreachable = {name: ConnectError(name, f"{name}: no answer within 10 s") for name in ("gpu1", "gpu2")}
    sent = collect(hosts, inventory(), Wanted(tmp_path, error="it failed"))
    assert sent.path is not None
    again = received(sent.path)
    assert [(cause.code, cause.nodes) for cause in again.causes] == [(cause.code, cause.nodes) for cause in sent.causes]
    assert (again.cluster, again.situation, again.fine) == (sent.cluster, sent.situation, False)


def test_logs_in_it_are_explained(tmp_path: Path) -> None:
    found = CliRunner().invoke(cli, ["diagnose", "--json", str(packed(tmp_path / "b.tar.gz", whole()))])
    assert found.exit_code == 1
    first = json.loads(found.stdout)["causes"][0]
    assert (first["name"], first["nodes"]) == ("model-file-damaged", ["gpu1"])


def test_a_damaged_piece_costs_nothing_else(tmp_path: Path) -> None:
    files = whole(**{"findings.json": "{", "nodes/gpu2/containers/demo-node/inspect.json": "{"})
    found = received(packed(tmp_path / "b.tar.gz", files))
    assert found.causes[0].name == "model-file-damaged"
    assert [(each.node, each.what) for each in found.missed] == [
        ("gpu2", "containers/demo-node/inspect.json"),
        ("", "findings.json"),
    ]


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"cluster": "x"}', json.dumps({**MANIFEST, "missed": 3})])
def test_what_is_no_bundle_is_said_so(tmp_path: Path, manifest: str) -> None:
    with pytest.raises(UsageError, match=r"no bundle of clusterctl diagnose: its manifest\.json"):
        received(packed(tmp_path / "b.tar.gz", whole(**{"manifest.json": manifest})))


def test_a_file_that_is_something_else_or_cut_off_is_said_so(tmp_path: Path) -> None:
    log, cut = tmp_path / "vllm.log", tmp_path / "cut.tar.gz"
    log.write_text("INFO\n", encoding="ascii")
    cut.write_bytes(packed(tmp_path / "b.tar.gz", whole()).read_bytes()[:200])
    for path, said in ((log, "is no bundle"), (cut, "is no bundle"), (tmp_path / "absent.tar.gz", "cannot read")):
        found = CliRunner().invoke(cli, ["diagnose", str(path)])
        assert isinstance(found.exception, UsageError)
        assert said in found.exception.message


def test_a_bundle_is_read_or_written_not_both(tmp_path: Path) -> None:
    found = CliRunner().invoke(cli, ["diagnose", "--no-bundle", str(packed(tmp_path / "b.tar.gz", whole()))])
    assert isinstance(found.exception, UsageError)
    assert "BUNDLE is one to be read" in found.exception.message
