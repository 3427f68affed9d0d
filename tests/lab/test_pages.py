"""The pages of `bench` and `report` in a real browser: what is drawn, where, and in which colour.

Needs chromium-headless-shell.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from clusterctl.records.benched import compare
from clusterctl.ui import benchmark as ui
from clusterctl.ui.report import as_html
from tests.unit.test_bench import level, record
from tests.unit.test_report import collected

pytestmark = [pytest.mark.lab]

COLOURS = {"c0": (0x1A, 0x66, 0xC2), "c1": (0xC2, 0x57, 0x1A), "c2": (0x2E, 0x85, 0x40)}

APART = [level(at_once, at_once * 50, ttft=100 + 20 * at_once) for at_once in (1, 2, 4, 8)]
"""Marks do not touch each other."""


@dataclass(frozen=True)
class Picture:
    """Pixels, as rows of (red, green, blue)."""

    rows: tuple[tuple[tuple[int, int, int], ...], ...]

    @property
    def colours(self) -> Counter[tuple[int, int, int]]:
        return Counter(pixel for row in self.rows for pixel in row)


def screenshot(page: str, tmp_path: Path, size: tuple[int, int]) -> Picture:
    browser = shutil.which("chromium-headless-shell")
    if browser is None:
        pytest.fail("no chromium-headless-shell: make setup installs it")
    source, target = tmp_path / "page.html", tmp_path / "page.png"
    source.write_text(page, encoding="utf-8")
    flags = ("--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1")
    window = f"--window-size={size[0]},{size[1]}"
    argv = [browser, *flags, window, f"--user-data-dir={tmp_path}/profile", f"--screenshot={target}", source.as_uri()]
    subprocess.run(argv, check=True, capture_output=True, timeout=120)
    return decoded(target.read_bytes())


def decoded(png: bytes) -> Picture:
    """Of eight bits a channel, not interlaced, as browsers write them (PNG specification, 9.2: filters)."""
    at, data, channels, width = 8, b"", 0, 0
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        chunk = png[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            width, _, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunk)
            assert (depth, interlaced) == (8, 0)
            channels = {2: 3, 6: 4}[colour]
        data += chunk if kind == b"IDAT" else b""
        at += size + 12
    raw, stride = zlib.decompress(data), width * channels
    rows, before = [], bytearray(stride)
    for start in range(0, len(raw), stride + 1):
        before = unfiltered(raw[start], bytearray(raw[start + 1 : start + 1 + stride]), before, channels)
        pixels = range(0, stride, channels)
        rows.append(tuple((before[p], before[p + 1], before[p + 2]) for p in pixels))
    return Picture(tuple(rows))


def unfiltered(kind: int, line: bytearray, above: bytearray, channels: int) -> bytearray:
    for place in range(len(line)):
        left = line[place - channels] if place >= channels else 0
        corner = above[place - channels] if place >= channels else 0
        up = above[place]
        if kind == 4:
            guess = left + up - corner
            near = min((left, up, corner), key=lambda each: abs(guess - each))
        else:
            near = (0, left, up, (left + up) // 2)[kind]
        line[place] = (line[place] + near) & 0xFF
    return line


def test_every_line_of_the_page_is_drawn(tmp_path: Path) -> None:
    text = ui.as_html(record(), None, None)
    seen = screenshot(text, tmp_path, (1000, 900)).colours
    for colour in COLOURS.values():
        assert seen[colour] > 300, f"{colour}: {seen[colour]} pixels"
    # Nothing of them is drawn by what is around the plots.
    bare = screenshot(re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL), tmp_path, (1000, 900)).colours
    assert all(bare[colour] == 0 for colour in COLOURS.values())


def test_marks_are_where_the_numbers_say(tmp_path: Path) -> None:
    old = record([level(1, 50, ttft=90), level(2, 160, ttft=180)])
    new = record(APART)
    text = ui.as_html(new, old, compare(old, new, where="old.json"))
    style = re.findall(r"<style>.*?</style>", text, re.DOTALL)[0]
    place = "<style>svg { position: absolute; left: 0; top: 0; width: 460px; height: 300px; }</style>"
    for number, drawn in enumerate(re.findall(r"<svg.*?</svg>", text, re.DOTALL)):
        picture = screenshot(f"<!DOCTYPE html>{style}{place}{drawn}", tmp_path, (460, 300))
        marks = re.findall(r'<circle class="mark (c\d)" cx="([\d.]+)" cy="([\d.]+)"', drawn)
        assert len(marks) == len(APART) * (1 if number == 0 else 3)
        for name, x, y in marks:
            seen = picture.rows[int(float(y))][int(float(x))]
            off = max(abs(one - other) for one, other in zip(seen, COLOURS[name], strict=True))
            assert off < 10, f"plot {number}: {name} at {x}, {y} has the colour {seen}"


def test_bars_of_a_report_are_as_long_as_the_phases_took(tmp_path: Path) -> None:
    text = as_html(collected(starts={"gpu1": {"gate": 10.0, "loading": 30.0}, "gpu2": {"gate": 20.0}}))
    text = re.sub(r"<svg.*?</svg>|<pre>.*?</pre>", "", text, flags=re.DOTALL)
    rows = screenshot(text, tmp_path, (1000, 1200)).rows
    runs = {name: {sum(pixel == colour for pixel in row) for row in rows} - {0} for name, colour in COLOURS.items()}
    gate, loading = max(runs["c0"]), max(runs["c1"])
    assert gate > 200, "the bar of gpu2"
    assert abs(loading / gate - 1.5) < 0.05, "30 s against 20 s"
    assert any(abs(length / gate - 0.5) < 0.05 for length in runs["c0"]), "10 s, the first part of gpu1's"


def test_a_report_shows_the_plots_of_its_benchmark(tmp_path: Path) -> None:
    text = as_html(collected())
    plots = "".join(re.findall(r"<style>.*?</style>|<div class=\"plots\">.*?</div>", text, flags=re.DOTALL))
    seen = screenshot(f"<!DOCTYPE html>{plots}", tmp_path, (1000, 800)).colours
    assert all(seen[colour] > 300 for colour in COLOURS.values()), {c: seen[c] for c in COLOURS.values()}
