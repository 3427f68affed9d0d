"""The model's files: the real probe on real directories, its facts, and the findings that they lead to."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from clusterctl.facts import gather, model_bytes, model_files, model_headers, parse
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.model_files import ModelFiles
from clusterctl.facts.safetensors import Header, header
from clusterctl.findings.finding import Finding, Severity
from clusterctl.findings.rules import rules
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory
from tests.unit.model_files import SHARDS, header_json, make_model, safetensors
from tests.unit.support import cluster_facts, inventory

FIRST, SECOND = SHARDS


def shell(script: bytes, *args: str, **environment: str) -> bytes:
    return subprocess.run(
        ["sh", "-s", "--", *args], input=script, capture_output=True, check=True, timeout=60,
        env={**os.environ, **environment},
    ).stdout  # fmt: skip


def read(directory: Path) -> ModelFiles:
    """What the probe and the second round trip find in a directory."""
    output = shell(gather.PROBE, str(directory))
    found = model_files.model(parse.sections(output.decode(errors="replace")))
    assert isinstance(found, ModelFiles)
    names = model_headers.readable(found)
    headers = model_headers.split(shell(model_headers.SCRIPT, str(directory), *names)) if names else {}
    assert isinstance(headers, Mapping)
    return model_headers.with_those(found, headers)


def digests(directory: Path, cache: Path, tool: str = "sha256sum") -> dict[str, str]:
    output = shell(model_bytes.SCRIPT, str(directory), tool, XDG_CACHE_HOME=str(cache)).decode()
    return {m[3]: m[2] for m in map(model_bytes._DONE.fullmatch, output.splitlines()) if m}


@pytest.fixture
def nodes(tmp_path: Path) -> tuple[Path, Path, Path]:
    """The same model on three nodes; a README is allowed to differ."""
    first, second, third = (make_model(tmp_path / name / "llama") for name in ("gpu1", "gpu2", "gpu3"))
    (third / "README.md").write_text("another one", encoding="utf-8")
    return first, second, third


THREE = {"nodes": [{"name": f"gpu{i}", "host": f"gpu{i}"} for i in (1, 2, 3)]}


def findings(nodes: tuple[Path, ...], known: Mapping[str, Mapping[str, str]] | None = None) -> list[Finding]:
    """What the rules say of these directories, each a node's."""
    facts = cluster_facts({"gpu3": None})
    models = {f"gpu{i}": read(directory) for i, directory in enumerate(nodes, start=1)}
    own = {name: replace(node, model=models[name]) for name, node in facts.nodes.items()}
    declared = inventory({**THREE, "model": {"path": str(nodes[0])}})
    return check(declared, ClusterFacts(own, {}, digests=known))


def check(declared: Inventory, facts: ClusterFacts) -> list[Finding]:
    """What the rules about the model say."""
    return [finding for rule in rules() if rule.section is Section.MODEL for finding in rule(declared, facts)]


def test_a_whole_model_on_all_nodes_has_no_finding(nodes: tuple[Path, ...]) -> None:
    assert findings(nodes) == []


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1000\n", encoding="utf-8")


def link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


FAULTS: dict[str, tuple[Callable[[Path], object], str, list[str]]] = {
    "truncated": (lambda m: cut(m / FIRST, 400), "model-file-damaged", [FIRST, "has 400 B", "B less than its header"]),
    "truncated in the header": (
        lambda m: cut(m / FIRST, 40),
        "model-file-damaged",
        [FIRST, "has 40 B, its header alone"],
    ),
    "truncated to almost nothing": (
        lambda m: cut(m / FIRST, 5),
        "model-file-damaged",
        ["5 B: shorter than any header"],
    ),
    "empty": (lambda m: cut(m / SECOND, 0), "model-file-damaged", [SECOND, "is empty"]),
    "empty tokenizer": (lambda m: cut(m / "tokenizer.json", 0), "model-file-damaged", ["tokenizer.json is empty"]),
    "too long": (
        lambda m: (m / FIRST).write_bytes((m / FIRST).read_bytes() + b"xyz"),
        "model-file-damaged",
        [FIRST, "3 B more than its header says"],
    ),
    "not a header": (
        lambda m: (m / FIRST).write_bytes(b"<!DOCTYPE html><html>an error page</html>"),
        "model-file-damaged",
        [FIRST, "<!DOCTYP", "not the length of a header"],
    ),
    "a header that is no JSON": (
        lambda m: (m / FIRST).write_bytes((4).to_bytes(8, "little") + b"nope" + b"data"),
        "model-file-damaged",
        [FIRST, "no readable header"],
    ),
    "LFS pointer": (lambda m: pointer(m / SECOND), "model-lfs-pointer", [SECOND]),
    "LFS pointer for the tokenizer": (lambda m: pointer(m / "tokenizer.json"), "model-lfs-pointer", ["tokenizer.json"]),
    "missing": (lambda m: (m / SECOND).unlink(), "model-shard-missing", [SECOND, "1 of 2"]),
    "broken link": (lambda m: link(m / SECOND, "../blobs/gone"), "model-link-broken", [SECOND, "../blobs/gone"]),
    "no tokenizer": (lambda m: (m / "tokenizer.json").unlink(), "model-tokenizer-missing", ["no tokenizer"]),
    "other configuration": (
        lambda m: (m / "config.json").write_text(
            '{"model_type": "llama", "num_attention_heads": 16}', encoding="utf-8"
        ),
        "model-config-differs",
        ["in: num_attention_heads"],
    ),
    "other tensors": (
        lambda m: (m / FIRST).write_bytes(safetensors({"model.layers.0.w": ["BF16", [32, 8], 512]})),
        "model-revision-differs",
        [FIRST, "model.layers.0.w"],
    ),
    "other tokenizer": (
        lambda m: (m / "tokenizer.json").write_text('{"a": 1}', encoding="utf-8"),
        "model-files-differ",
        ["tokenizer.json"],
    ),
    "unfinished download": (
        lambda m: (m / "abc.incomplete").touch(),
        "model-download-unfinished",
        ["abc.incomplete"],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_on_one_node_is_one_finding_that_names_it(nodes: tuple[Path, ...], name: str) -> None:
    inject, code, words = FAULTS[name]
    inject(nodes[1])
    found = findings(nodes)
    assert [(f.code, f.nodes) for f in found] == [(code, ("gpu2",))]
    for word in words:
        assert word in found[0].seen


@pytest.mark.parametrize("name", ["truncated", "LFS pointer", "broken link", "no tokenizer", "not a header"])
def test_the_same_fault_on_every_node_is_still_one_finding(nodes: tuple[Path, ...], name: str) -> None:
    inject, code, _ = FAULTS[name]
    for node in nodes:
        inject(node)
    assert [(f.code, f.nodes) for f in findings(nodes)] == [(code, ("gpu1", "gpu2", "gpu3"))]


def test_another_revision_is_one_finding_with_all_that_differs(nodes: tuple[Path, ...]) -> None:
    for name in ("other configuration", "other tensors", "other tokenizer"):
        FAULTS[name][0](nodes[2])
    (found,) = findings(nodes)
    assert (found.code, found.nodes) == ("model-revision-differs", ("gpu3",))
    assert "config.json" in found.seen
    assert "tokenizer.json" in found.seen


def test_metadata_is_not_a_difference(nodes: tuple[Path, ...]) -> None:
    whole = (nodes[1] / FIRST).read_bytes()
    (nodes[1] / FIRST).write_bytes(whole.replace(b'{"format": "pt"}', b'{"format": "xy"}'))
    assert findings(nodes) == []


def cache(root: Path, commit: str = "a" * 40) -> Path:
    """The same model as huggingface_hub keeps it: snapshots/COMMIT/FILE -> ../../blobs/SHA256."""
    model = make_model(root / "made")
    snapshot = root / "models--org--llama" / "snapshots" / commit
    blobs = root / "models--org--llama" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in model.iterdir():
        blob = subprocess.run(["sha256sum", file], capture_output=True, check=True, text=True).stdout.split()[0]
        shutil.move(file, blobs / blob)
        (snapshot / file.name).symlink_to(f"../../blobs/{blob}")
    return snapshot


def test_a_snapshot_whose_blobs_the_container_does_not_see(tmp_path: Path) -> None:
    nodes = tuple(cache(tmp_path / name) for name in ("gpu1", "gpu2", "gpu3"))
    models = [read(node) for node in nodes]
    assert [model.revision for model in models] == ["a" * 40] * 3
    assert set(models[0].blobs) == {file.name for file in nodes[0].iterdir()}
    (found,) = [f for f in findings((nodes[0],) * 3) if f.code == "model-link-outside"]
    assert found.nodes == ("gpu1", "gpu2", "gpu3")
    assert str(tmp_path / "gpu1" / "models--org--llama" / "blobs") in found.fix
    volume = f"{tmp_path}:{tmp_path}:ro"
    own = {name: replace(node, model=models[0]) for name, node in cluster_facts({"gpu3": None}).nodes.items()}
    mounted = inventory({**THREE, "model": {"path": str(nodes[0])}, "container": {"volumes": [volume]}})
    assert check(mounted, ClusterFacts(own, {})) == []


def test_a_caches_folder_is_not_a_model(tmp_path: Path) -> None:
    folder = cache(tmp_path / "gpu1").parents[1]
    codes = {finding.code: finding for finding in findings((folder,) * 3)}
    assert "snapshots/" + "a" * 40 in codes["model-config"].fix


def test_another_commit_with_equal_headers_is_a_warning(tmp_path: Path) -> None:
    paths = [cache(tmp_path / name, commit) for name, commit in (("gpu1", "a" * 40), ("gpu2", "b" * 40))]
    found = [f for f in findings((paths[0], paths[0], paths[1])) if f.code == "model-files-differ"]
    assert [(f.severity, f.nodes) for f in found] == [(Severity.WARNING, ("gpu3",))]


def test_a_flipped_byte_is_seen_by_full_only(nodes: tuple[Path, ...], tmp_path: Path) -> None:
    damaged = bytearray((nodes[1] / SECOND).read_bytes())
    damaged[-1] ^= 1
    (nodes[1] / SECOND).write_bytes(damaged)
    assert findings(nodes) == []
    known = {f"gpu{i}": digests(node, tmp_path / f"cache{i}") for i, node in enumerate(nodes, start=1)}
    (found,) = findings(nodes, known)
    assert (found.code, found.nodes) == ("model-bytes-differ", ("gpu2",))
    assert SECOND in found.seen


def test_a_blob_that_is_not_what_its_name_says(tmp_path: Path) -> None:
    snapshot = cache(tmp_path / "gpu1")
    blob = (snapshot / FIRST).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"\0")
    known = dict.fromkeys(("gpu1", "gpu2", "gpu3"), digests(snapshot, tmp_path / "cache"))
    (found,) = [f for f in findings((snapshot,) * 3, known) if f.code == "model-bytes-differ"]
    assert "the cache names them by" in found.seen
    assert FIRST in found.seen


def test_digests_are_kept_on_the_node_until_a_file_changes(nodes: tuple[Path, ...], tmp_path: Path) -> None:
    model, home = nodes[0], tmp_path / "cache"
    first = digests(model, home)
    assert set(first) == {file.name for file in model.iterdir()}
    (kept,) = (home / "clusterctl").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    kept.write_text(kept.read_text().replace(first[FIRST], "0" * 64))
    assert digests(model, home)[FIRST] == "0" * 64, "what is kept is used"
    time.sleep(0.02)
    (model / FIRST).write_bytes((model / FIRST).read_bytes())
    assert digests(model, home) == first, "another modification time: read again"


def test_the_tool_that_all_nodes_have() -> None:
    def files(*tools: str, **links: str) -> ModelFiles:
        return ModelFiles({}, None, None, tools=tools, links=links)

    both = files("b3sum", "sha256sum")
    assert model_bytes.chosen_tool({"a": both, "b": both}) == "b3sum"
    assert model_bytes.chosen_tool({"a": both, "b": files("sha256sum")}) == "sha256sum"
    assert model_bytes.chosen_tool({"a": both, "b": files()}) is None
    assert model_bytes.chosen_tool({"a": files("b3sum", "sha256sum", x=f"../blobs/{'0' * 64}")}) == "sha256sum"


def test_a_node_without_sha256sum_is_unknown_not_equal(nodes: tuple[Path, ...], tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("sh", "cat", "find", "stat", "tr", "sort", "grep", "od", "head", "tail", "ls", "sed", "awk"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    part = b"\n".join((Path(gather.__file__).with_name("probes") / f"{p}.sh").read_bytes() for p in ("frame", "model"))
    script = part.replace(b'PATH="$PATH:', b'OTHER="')
    found = model_files.model(parse.sections(shell(script, str(nodes[0]), PATH=str(tools)).decode()))
    assert isinstance(found, ModelFiles)
    assert isinstance(found.digests, Unknown)
    assert isinstance(found.headers_digest, Unknown)
    assert set(found.starts) == set(SHARDS)
    assert found.tools == ()


def test_names_with_spaces_and_many_shards_stay_quick(tmp_path: Path) -> None:
    model = tmp_path / "a model's dir"
    model.mkdir()
    for number in range(200):
        (model / f"shard {number:03}.safetensors").write_bytes(safetensors({f"w{number}": ["F32", [2], 8]}))
    began = time.monotonic()
    found = read(model)
    assert len(found.headers) == 200
    assert all(isinstance(said, Header) and said.file_bytes == found.sizes[n] for n, said in found.headers.items())
    assert time.monotonic() - began < 10  # about one second on two cores; a process more a shard would show


GARBAGE = (
    *(b"", b"[]", b"null", b"\xff", b'{"a": 1}', b'{"a": {"data_offsets": [0]}}', b'{"a": {"data_offsets": "xy"}}'),
    *(b'{"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}}', b"[" * 100_000),
)


@pytest.mark.parametrize("content", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_no_header(content: bytes) -> None:
    assert isinstance(header(content), Unknown)


def test_a_header_says_where_the_file_ends() -> None:
    tensors = {"late": ["F32", [4], 16], "early": ["BF16", [2, 2], 24]}
    said = header(header_json(tensors))
    assert isinstance(said, Header)
    assert said.data_bytes == 24
    assert said.file_bytes == len(safetensors(tensors))


@pytest.mark.parametrize("output", [b"\x1f\x8bnonsense", b"x y\n", b"\n"])
def test_damaged_answers_are_unknown(output: bytes) -> None:
    assert isinstance(model_headers.split(output), Unknown)
