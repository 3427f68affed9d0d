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
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from clusterctl.facts.fact import Unknown
from clusterctl.lock.history import Note
from clusterctl.records.benched import compare
from clusterctl.ui import benchmark as ui
from clusterctl.ui.report import as_html
from tests.unit.test_bench import level, record
from tests.unit.test_report import RUN, collected

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


def in_browser(page: str, tmp_path: Path, size: tuple[int, int], wanted: str) -> str:
    """Open it in a window of this size; what the browser printed."""
    browser = shutil.which("chromium-headless-shell")
    if browser is None:
        pytest.fail("no chromium-headless-shell: make setup installs it")
    source = tmp_path / "page.html"
    source.write_text(page, encoding="utf-8")
    flags = ("--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1")
    window = f"--window-size={size[0]},{size[1]}"
    argv = [browser, *flags, window, f"--user-data-dir={tmp_path}/profile", wanted, source.as_uri()]
    return subprocess.run(argv, check=True, capture_output=True, timeout=120).stdout.decode()


def screenshot(page: str, tmp_path: Path, size: tuple[int, int]) -> Picture:
    target = tmp_path / "page.png"
    in_browser(page, tmp_path, size, f"--screenshot={target}")
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


OUTSIDE = """<script>
const width = document.documentElement.clientWidth;
const late = [...document.querySelectorAll("p, pre, table, .bars, .bars > span")].filter(
  each => each.scrollWidth > each.clientWidth + 1 && getComputedStyle(each).display != "inline"
    || each.getBoundingClientRect().right > width + 1);
const narrow = [...document.querySelectorAll("th")].filter(each => each.getBoundingClientRect().width < 30);
const shown = each => each.tagName + " " + each.textContent.slice(0, 40);
document.title = "outside: " + [...late, ...narrow].map(shown).join("; ");
</script>"""


def outside(page: str, tmp_path: Path, width: int) -> str:
    """What of the page lies outside of a window this wide, or has to be scrolled to."""
    dom = in_browser(page.replace("</body>", f"{OUTSIDE}</body>"), tmp_path, (width, 900), "--dump-dom")
    return str(re.findall(r"<title>outside: (.*?)</title>", dom, re.DOTALL)[0])


@pytest.mark.parametrize("width", [1440, 1000])
def test_long_lines_of_a_report_are_wrapped_and_not_cut(tmp_path: Path, width: int) -> None:
    long = "/models/" + "a-long-name-" * 40
    found = collected(
        layout=Unknown(f"{long}: no configuration"),
        starts={"gpu1-of-a-long-name" * 3: dict.fromkeys(("gate", "loading", "compiling", long[:80]), 12.5)},
    )
    run = replace(RUN, outcome=long, notes=(Note(1.0, long), Note(2.0, "word " * 80)))
    page = as_html(replace(found, history=replace(found.history, entries=(run,))))
    page = re.sub(r"<div class=\"plots\">.*?</div>", "", page, flags=re.DOTALL)  # has a width of its own
    assert outside(page, tmp_path, width) == ""
    cut = page.replace("white-space: pre-wrap", "white-space: pre")
    assert "PRE" in outside(cut, tmp_path, width), "the browser sees a line that is too long"
