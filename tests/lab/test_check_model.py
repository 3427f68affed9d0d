"""The model on real nodes: `check` finds each fault and names node and file, `up` refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterctl.lab import lab as labs

from .conftest import Ran, Rehearsal

pytestmark = pytest.mark.lab

TINY = "models/tiny"


@pytest.fixture
def model(clean: Rehearsal) -> Iterator[Path]:
    """The model's directory on node2, put back as it was."""
    directory = clean.lab.disk("node2") / TINY
    aside = directory.with_name("tiny-aside")
    shutil.copytree(directory, aside, symlinks=True)
    yield directory
    shutil.rmtree(directory)
    aside.rename(directory)


def findings(ran: Ran) -> list[tuple[str, list[str], str]]:
    said = ran.json()
    rows = said["findings"] if isinstance(said, dict) else said
    return [(row["code"], row["nodes"], row["seen"]) for row in rows if row["code"].startswith("model-")]


def first(model: Path) -> Path:
    return sorted(model.glob("*.safetensors"))[0]


def truncate(model: Path) -> None:
    shard = first(model)
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])


def pointer(model: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 591944\n"
    first(model).write_text(text, encoding="utf-8")


def config(model: Path) -> None:
    said = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps({**said, "rms_norm_eps": 1e-5}), encoding="utf-8")


def no_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()


def no_shard(model: Path) -> None:
    first(model).unlink()


def broken_link(model: Path) -> None:
    first(model).unlink()
    first_name = "model-00001-of-00003.safetensors"
    (model / first_name).symlink_to("../blobs/gone")


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "model-00001-of-00003.safetensors has": (truncate, "model-file-damaged"),
    "model-00001-of-00003.safetensors": (pointer, "model-lfs-pointer"),
    "rms_norm_eps": (config, "model-config-differs"),
    "tokenizer": (no_tokenizer, "model-tokenizer-missing"),
    "lacks model-00001-of-00003.safetensors": (no_shard, "model-shard-missing"),
    "../blobs/gone": (broken_link, "model-link-broken"),
}


@pytest.mark.parametrize("word", FAULTS, ids=[code for _, code in FAULTS.values()])
def test_a_fault_is_found_and_up_refuses(clean: Rehearsal, model: Path, word: str) -> None:
    inject, code = FAULTS[word]
    inject(model)
    ran = clean.clusterctl("check", "--json")
    assert ran.code == 1
    ((found, nodes, seen),) = findings(ran)
    assert (found, nodes) == (code, ["node2"])
    assert word in seen
    refused = clean.clusterctl("up")
    assert refused.code == 1
    assert code in refused.err
    for node in labs.status(clean.lab):
        assert clean.containers(node.name) == []


def test_a_flipped_byte_is_found_by_full(clean: Rehearsal, model: Path) -> None:
    shard = first(model)
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert findings(clean.clusterctl("check", "--json")) == []
    ran = clean.clusterctl("check", "--full", "--json")
    assert ran.code == 1
    ((found, nodes, seen),) = findings(ran)
    assert (found, nodes) == ("model-bytes-differ", ["node2"])
    assert shard.name in seen
    assert "node2: 9 of 9 files" in ran.err
    modes = clean.lab.exec("node2", ["find", "/root/.cache/clusterctl", "-type", "f", "-printf", "%m\\n"]).split()
    assert set(modes) == {"600"}


def test_the_layout_predicts_what_vllm_prints(clean: Rehearsal) -> None:
    # tests/unit/fixtures/logs/vllm-0.32-healthy.log, TP 1 x PP 2 in a lab like this one: 2,097,152 tokens.
    one = clean.clusterctl.with_changes("one", {"accelerator.per_node": 1})
    ran = one("layout", "--json")
    assert ran.code == 0
    assert ran.json()["chosen"]["kv_cache_tokens"] == 2_097_152
    assert ran.json()["chosen"]["max_concurrency"] == 4096.0


def test_heads_that_do_not_divide_and_a_model_too_large(clean: Rehearsal) -> None:
    many = clean.clusterctl.with_changes("many", {"accelerator.per_node": 8})
    assert "4 attention heads are not divisible by TP 8" in many("layout").out
    refused = many("up")
    assert refused.code == 1
    assert "layout-indivisible" in refused.err
    long = clean.clusterctl.with_changes("long", {"serve.options": {"max-model-len": 100_000_000}})
    refused = long("up")
    assert refused.code == 1
    assert "kv-cache-small" in refused.err
