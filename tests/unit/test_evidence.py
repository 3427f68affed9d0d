"""What the bundle is cut and put together from, without nodes: streams, files, the page at its top."""

from __future__ import annotations

import stat
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterctl.diagnosis import bundle
from clusterctl.diagnosis.bundle import Bundle, readme_text, summary
from clusterctl.diagnosis.collect import Wanted, collect, collect_after_failure, own_secrets
from clusterctl.diagnosis.streams import Tail, whole_lines
from clusterctl.errors import ClusterctlError
from clusterctl.hosts.engine.engine import LogChunk
from clusterctl.hosts.host import Hosts
from clusterctl.hosts.ssh.errors import ConnectError
from tests.unit.support import inventory

STAMP = b"2026-01-02T03:04:05.123456789Z "


def chunk(data: bytes, stream: Literal["stdout", "stderr"] = "stdout") -> LogChunk:
    return LogChunk(stream, STAMP + data)


def test_a_line_in_several_frames_is_one_line_with_one_time() -> None:
    frames = [chunk(b"a tok"), chunk(b"oops\n", "stderr"), chunk(b"en b\n"), chunk(b"next\n")]
    told = list(whole_lines(frames))
    out = b"".join(part.data for part in told if part.stream == "stdout")
    assert out == STAMP + b"a token b\n" + STAMP + b"next\n"
    assert [part.data for part in told if part.stream == "stderr"] == [STAMP + b"oops\n"]


@given(st.lists(st.binary(max_size=20), max_size=30), st.integers(min_value=1, max_value=60))
def test_the_end_of_a_stream_is_cut_between_lines(parts: list[bytes], limit: int) -> None:
    tail = Tail(limit)
    for part in parts:
        tail.add(part)
    whole, kept = b"".join(parts), tail.content()
    assert whole.endswith(kept)
    assert len(kept) <= limit or kept == whole
    if kept != whole:
        assert tail.cut
        assert not kept or whole[: -len(kept)].endswith(b"\n")


def test_what_is_not_cut_does_not_say_so() -> None:
    tail = Tail(10)
    tail.add(b"abc\n")
    assert (tail.cut, tail.content(), tail.lines) == (None, b"abc\n", 1)


@pytest.fixture
def nobody() -> Hosts:
    """A cluster none of whose nodes answers."""
    hosts = Hosts(inventory())
    hosts.unreachable = {name: ConnectError(name, f"{name}: no answer within 10 s") for name in ("gpu1", "gpu2")}
    return hosts


def test_nobody_answers(nobody: Hosts, tmp_path: Path) -> None:
    bundle = collect(nobody, inventory(), Wanted(tmp_path, error="it failed with hf_AbCdEfGhIjKlMnOp0123"))
    assert not bundle.fine
    assert [cause.code for cause in bundle.causes] == ["node-unreachable"]
    assert bundle.path is not None
    assert list(tmp_path.iterdir()) == [bundle.path]
    assert stat.S_IMODE(bundle.path.stat().st_mode) == 0o600
    with tarfile.open(bundle.path) as tar:
        first = tar.getmembers()[0]
        assert first.name.endswith("/README.txt")
        file = tar.extractfile(first)
        assert file is not None
        readme = file.read().decode()
        assert "hf_AbC" not in readme
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert "not reached: gpu1" in readme
    assert {"manifest.json", "error.txt", "facts.json", "inventory-as-read.yaml"} <= names


def test_without_a_bundle_nothing_is_written(nobody: Hosts, tmp_path: Path) -> None:
    assert collect(nobody, inventory(), Wanted(tmp_path, write=False)).path is None
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept(nobody: Hosts, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    with pytest.raises(ClusterctlError, match="exists"):
        collect(nobody, inventory(), Wanted(tmp_path, output=mine))
    assert mine.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [mine]


def test_two_runs_do_not_write_one_file(nobody: Hosts, tmp_path: Path) -> None:
    part = tmp_path / "mine.part"
    part.write_text("of a run that goes on")
    with pytest.raises(ClusterctlError, match=r"mine\.part already exists"):
        collect(nobody, inventory(), Wanted(tmp_path, output=tmp_path / "mine"))
    assert part.read_text() == "of a run that goes on"


def test_a_disk_that_gets_full_leaves_nothing(nobody: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle, "_add", full)
    with pytest.raises(ClusterctlError, match="No space left"):
        collect(nobody, inventory(), Wanted(tmp_path))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.chdir(tmp_path)
    assert "No space left" in collect_after_failure(nobody, inventory(), "it failed", None)
    assert list(tmp_path.iterdir()) == []


def test_the_summary_of_what_is_fine() -> None:
    found = Bundle("demo", None, "serving", (), {}, complete=True, unexplained=False, missed=(), seconds=1.0)
    assert found.fine
    assert list(summary(found)) == ["serving", "", "Nothing wrong was found."]
    assert found.to_json()["path"] is None
    text = readme_text(found, {"a": (b"", 3)}, {"a": "cut"}, datetime(2026, 1, 2, tzinfo=UTC), "clusterctl")
    assert "a (3 bytes, cut)" in text


def test_the_summary_of_what_nothing_explains() -> None:
    said = "not serving: 2 of 2 containers run"
    bundle = Bundle("demo", None, said, (), {}, complete=True, unexplained=True, missed=(), seconds=1.0)
    assert not bundle.fine
    assert "No cause was found" in "\n".join(summary(bundle))
    assert "Nothing wrong" not in "\n".join(summary(bundle))


def test_words_that_are_no_secret_are_not_taken_for_one(tmp_path: Path) -> None:
    key = tmp_path / "id_ed25519"
    secret = tmp_path / "key"
    secret.write_text("a-real-api-key\n")
    assert list(own_secrets(inventory())) == []
    told = inventory(
        {
            "nodes": [{"name": "gpu1", "host": "gpu1.example.com", "key": str(key)}],
            "serve": {"api_key_file": str(secret)},
            "container": {"env": {"MY_TOKEN": "a-token-of-mine"}},
        }
    )
    assert sorted(own_secrets(told)) == ["a-real-api-key", "a-token-of-mine"]
