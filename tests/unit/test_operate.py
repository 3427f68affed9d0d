"""`exec` without nodes: streams taken apart, lines put together, command lines that are refused."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from clusterctl.actions.exec import END_SCRIPT, MARK, MAX_LINE_BYTES, PrefixedLines
from clusterctl.hosts.engine.exec import Frames
from clusterctl.hosts.ssh.streams import Piece
from tests.unit.support import BASE

STREAMS = st.sampled_from(["stdout", "stderr"])


def frame(stream: str, data: bytes) -> bytes:
    return struct.pack(">BxxxL", 2 if stream == "stderr" else 1, len(data)) + data


def merged(pieces: list[Piece]) -> list[Piece]:
    """Neighbours of one stream as one piece, empty ones left out."""
    found: list[Piece] = []
    for stream, data in pieces:
        if found and found[-1][0] == stream:
            found[-1] = (stream, found[-1][1] + data)
        elif data:
            found.append((stream, data))
    return found


@given(
    st.lists(st.tuples(STREAMS, st.binary(max_size=30)), max_size=8),
    st.lists(st.integers(1, 12), min_size=1, max_size=40),
)
def test_frames_are_taken_apart_however_they_are_cut(frames: list[Piece], cuts: list[int]) -> None:
    data = b"".join(frame(*one) for one in frames)
    taker, found, at = Frames(), [], 0
    for cut in [*cuts, len(data)]:
        found += list(taker.feed(data[at : at + cut]))
        at += cut
    found += list(taker.feed(data[at:]))
    assert merged(found) == merged(frames)


def test_a_large_frame_is_passed_on_before_it_is_complete() -> None:
    taker = Frames()
    assert list(taker.feed(frame("stdout", b"x" * 100)[:50])) == [("stdout", b"x" * 42)]


def test_lines_have_their_nodes_name_and_are_whole_on_each_stream() -> None:
    lines = PrefixedLines(b"gpu1 | ")
    assert list(lines.feed(("stdout", b"one\ntw"))) == [("stdout", b"gpu1 | one\n")]
    assert list(lines.feed(("stderr", b"\xff\n"))) == [("stderr", b"gpu1 | \xff\n")]
    assert list(lines.feed(("stdout", b"o\n\nthree"))) == [("stdout", b"gpu1 | two\n"), ("stdout", b"gpu1 | \n")]
    assert list(lines.end()) == [("stdout", b"gpu1 | three\n")]


def test_output_without_newlines_does_not_pile_up() -> None:
    lines = PrefixedLines(b"")
    passed_on = sum(len(data) for _ in range(100) for _, data in lines.feed(("stdout", b"x" * 10_000)))
    assert passed_on >= 100 * 10_000 - MAX_LINE_BYTES


def test_whatever_has_the_mark_is_ended_also_when_it_does_not_want_to() -> None:
    stubborn = "trap '' TERM; sleep 60 & echo ready; wait; wait"
    command = subprocess.Popen(
        ["sh", "-c", stubborn], env={**os.environ, MARK: "0123456789ab"}, stdout=subprocess.PIPE, text=True
    )
    bystander = subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: "another"})
    try:
        assert command.stdout is not None
        assert command.stdout.readline() == "ready\n"
        began = time.monotonic()
        subprocess.run(["sh", "-c", END_SCRIPT, "sh", f"{MARK}=0123456789ab"], check=False, timeout=30)
        assert command.wait(5) == -9
        assert command.stdout.read() == ""  # the child that held it too is gone
        assert time.monotonic() - began < 20
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
        command.kill()


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    file = tmp_path / "inventory.yaml"
    file.write_text(yaml.safe_dump(BASE), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["exec", "gpu1"], "no command"),
        (["exec", "gpu1", "nvidia-smi"], "no command"),
        (["exec", "gpu1", "--"], "no command"),
        (["exec", "--", "true"], "either NODEs or --all"),
        (["exec", "--all", "gpu1", "--", "true"], "either NODEs or --all"),
        (["exec", "gpu9", "--", "true"], "no node gpu9"),
        (["exec", "gpu1", "-T", "0", "--", "true"], "-T"),
        (["shell", "gpu1"], "a shell needs a terminal"),
    ],
)
def test_wrong_command_lines_are_2_and_say_what_to_write(inventory: Path, words: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "clusterctl", "-i", str(inventory), *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert done.stdout == ""
