"""`bench` without a node: what vLLM wrote, how far a sweep goes, what it concludes, what it compares, and its page."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import count, pairwise
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterctl.actions.bench import SCRIPT, BenchOptions, Target, bench_argv, fitted, measured, requests_of
from clusterctl.errors import ClusterctlError
from clusterctl.hosts.engine.engine import Container
from clusterctl.hosts.host import Host
from clusterctl.progress import SILENT
from clusterctl.records.benched import compare
from clusterctl.records.benchmark import Benchmark, Latency, Level, Load, Run, Traffic, enough, read_result, unsteady
from clusterctl.records.files import json_text, read_record, to_json
from clusterctl.records.saturation import Limits, next_load, saturation
from clusterctl.records.spread import Spread, judged
from clusterctl.records.verification import Shape
from clusterctl.ui import benchmark as ui
from clusterctl.ui.plot import Plot, Series, svg, ticks
from tests.unit.stand_ins import look
from tests.unit.support import inventory

RESULT = (Path(__file__).parent / "fixtures/bench/result.json").read_text(encoding="utf-8")
"""Of `vllm bench serve --save-result` (vLLM 0.32) in the lab."""

DECODE, PREFILL = Traffic(128, 512), Traffic(2048, 64)


def run(tokens: float, ttft: float = 20.0, failed: int = 0) -> Run:
    first, other = Latency(ttft, ttft, ttft * 1.5, ttft * 2), Latency(5, 5, 6, 9)
    return Run(8, failed, 1.0, tokens / 640, tokens * 0.8, tokens, first, other, other, Latency(900, 900, 950, 990))


def level(at_once: int, *tokens: float, traffic: Traffic = DECODE, ttft: float = 20.0) -> Level:
    return Level(traffic, Load(concurrency=at_once), tuple(run(each, ttft) for each in tokens))


LEVELS = (level(1, 100, 101), level(2, 195, 199), level(4, 390, 391), level(8, 395, 396, ttft=300))


def record(levels: Sequence[Level] = LEVELS, **changes: Any) -> Benchmark:
    made: dict[str, Any] = {
        "made_at": "2026-11-27T04:30:00Z",
        "clusterctl": "0.1.0",
        "cluster": "demo",
        "model": "llama",
        "model_path": "/models/llama",
        "endpoint": "http://10.77.0.11:8000",
        "image": "vllm:1",
        "vllm": "0.32.0",
        "shape": Shape("mp", 2, 1, 1, False),
        "kv_tokens": 100_000,
        "max_model_len": 4096,
        "levels": tuple(levels),
        "saturation": (),
        "notes": (),
        "ended_early": None,
        **changes,
    }
    found = Benchmark(**made)
    limits = Limits(1, found.kv_tokens, None)
    drawn = tuple(saturation(found.levels_of(traffic), limits) for traffic in found.traffics)
    return Benchmark(**{**made, "saturation": drawn})


def test_a_real_result_is_read() -> None:
    found = read_result(RESULT)
    assert (found.completed, found.failed) == (8, 0)
    assert found.total_tokens_per_s == pytest.approx(133.44, abs=0.01)
    assert [found.ttft.p50, found.ttft.p99] == pytest.approx([105.98, 1219.09], abs=0.01)
    assert found.itl.p90 == pytest.approx(91.54, abs=0.01)
    assert found.e2el.mean == pytest.approx(1213.55, abs=0.01)


def test_a_result_of_a_vllm_that_does_not_count_failures() -> None:
    said = json.loads(RESULT)
    del said["failed"]
    assert read_result(json.dumps({**said, "completed": 6})).failed == 2


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", "no json", json.dumps({**json.loads(RESULT), "p99_itl_ms": None})]
)
def test_what_is_no_result_is_said(text: str) -> None:
    with pytest.raises(ClusterctlError, match="no result that this clusterctl reads"):
        read_result(text)


def test_a_run_without_an_answer_is_no_measurement() -> None:
    with pytest.raises(ClusterctlError, match="none of 8 requests"):
        read_result(json.dumps({**json.loads(RESULT), "completed": 0, "failed": 8}))


def test_runs_are_repeated_until_they_agree() -> None:
    assert not enough([], 5)
    assert not enough([run(100)], 5)
    assert enough([run(100)], 1)
    assert enough([run(100), run(104)], 5)
    assert not enough([run(100), run(106)], 5)
    assert enough([run(100), run(150), run(100)], 3)


def test_runs_that_never_agree_are_noted() -> None:
    assert unsteady(LEVELS) is None
    assert unsteady([level(1, 100)]) is None
    said = unsteady([*LEVELS, level(16, 100, 150, 130)])
    assert said is not None
    assert "1 of 5 levels lie up to 38% apart" in said


def test_a_sweep_doubles_until_it_adds_nothing() -> None:
    loads: list[int] = []
    levels: list[Level] = []
    while (load := next_load(levels)) is not None:
        assert load.concurrency is not None
        loads.append(load.concurrency)
        levels.append(level(load.concurrency, min(load.concurrency, 6) * 100))
    assert loads == [1, 2, 4, 8, 16]


@given(st.lists(st.floats(min_value=1, max_value=1e6), min_size=1, max_size=40))
def test_a_sweep_ends_whatever_is_measured(measured: list[float]) -> None:
    levels: list[Level] = []
    for tokens in (*measured, *measured[-1:] * 20):
        if (load := next_load(levels)) is None:
            break
        assert load.concurrency is not None
        levels.append(level(load.concurrency, tokens))
    else:
        pytest.fail("it never ends")
    found = saturation(levels, Limits(1, None, None))
    assert found.load is None or found.load in [each.load for each in levels]


def test_saturation_is_the_lowest_load_near_the_best() -> None:
    found = saturation(LEVELS, Limits(1, 100_000, None))
    assert found.load == Load(concurrency=4)
    assert "300 ms instead of 20 ms" in found.rule
    assert "another engine" in found.advice


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(1, 100_000, 4), "max-num-seqs"),
        (Limits(2, 100_000, 2), "max-num-seqs"),
        (Limits(1, 2560, None), "KV cache holds 4 requests of 640 tokens"),
        (Limits(2, 2560, None), "accelerators are busy"),
        (Limits(1, None, None), "accelerators are busy"),
    ],
    ids=str,
)
def test_the_first_limit_that_is_met_is_named(limits: Limits, words: str) -> None:
    assert words in saturation(LEVELS, limits).advice


def test_what_still_rises_is_not_called_saturated() -> None:
    found = saturation(LEVELS[:3], Limits(1, None, None))
    assert found.load is None
    assert "highest load that was tried" in found.rule


def test_one_load_says_nothing_about_saturation() -> None:
    found = saturation(LEVELS[:1], Limits(1, None, 1))
    assert found.load is None
    assert "only load" in found.rule


def test_requests_are_shortened_to_what_the_model_takes() -> None:
    asked = BenchOptions((DECODE, PREFILL), (), 5, None)
    found, notes = fitted(asked, 1024)
    assert found.traffics[0] == DECODE
    assert sum((found.traffics[1].input_tokens, found.traffics[1].output_tokens)) <= 1024 - 16
    assert len(notes) == 1
    assert "max-model-len is 1024" in notes[0]
    assert fitted(asked, None) == (asked, ())


def test_a_run_is_long_enough_for_its_load() -> None:
    assert requests_of(Load(concurrency=1), None) == 8
    assert requests_of(Load(concurrency=16), None) == 64
    assert requests_of(Load(request_rate=2.0), None) == 60
    assert requests_of(Load(request_rate=0.01), None) == 8
    assert requests_of(Load(concurrency=16), 5) == 5


def test_the_command_line_of_a_run() -> None:
    options = {"trust-remote-code": True, "tokenizer": "/models/words", "ssl-certfile": "/c.pem", "ssl-keyfile": "/k"}
    target = Target(inventory({"serve": {"options": options}}), "https://10.77.0.11:8000", count(7))
    argv = bench_argv(target, PREFILL, Load(concurrency=4), 16)
    said = dict(pairwise(argv))
    assert argv[:3] == ["vllm", "bench", "serve"]
    assert (said["--model"], said["--tokenizer"], said["--base-url"]) == ("llama", "/models/words", target.endpoint)
    assert (said["--random-input-len"], said["--random-output-len"]) == ("2048", "64")
    assert (said["--num-prompts"], said["--max-concurrency"], said["--seed"]) == ("16", "4", "7")
    assert {"--trust-remote-code", "--insecure"} <= set(argv)
    again = bench_argv(target, PREFILL, Load(request_rate=0.5), 16)
    assert again[again.index("--request-rate") + 1] == "0.5"
    assert again[again.index("--seed") + 1] == "8"
    assert not {"--max-concurrency"} & set(again)
    plain = bench_argv(Target(inventory(), "http://10.77.0.11:8000", count()), DECODE, Load(concurrency=1), 8)
    assert not {"--trust-remote-code", "--insecure"} & set(plain)
    assert plain[plain.index("--tokenizer") + 1] == "/models/llama"


def in_shell(program: str) -> subprocess.CompletedProcess[str]:
    """The script, around a program in place of vLLM's."""
    argv = ["sh", "-c", SCRIPT, "sh", "sh", "-c", program, "program"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


def test_the_script_brings_the_result_and_leaves_nothing() -> None:
    # Its arguments: --save-result --result-dir DIR --result-filename result.json
    done = in_shell('echo "$3"; echo talk; echo "{1}" > "$3/$5"; cat')
    assert (done.returncode, done.stdout) == (0, "{1}\n")
    directory = done.stderr.splitlines()[0]
    assert done.stderr.splitlines() == [directory, "talk"]
    assert not Path(directory).exists()


def test_the_script_ends_with_the_programs_exit_code() -> None:
    done = in_shell('echo "$3" >&2; exit 3')
    assert (done.returncode, done.stdout) == (3, "")
    assert not Path(done.stderr.strip()).exists()


class Here:
    """A command that runs on this machine, in place of one in a container."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(argv, env={**os.environ, **environment}, **pipes)  # type: ignore[call-overload]

    def pieces(self, deadline: float | None = None) -> Iterator[tuple[str, bytes]]:
        out, err = self.process.communicate(timeout=30)
        yield from (("stderr", err), ("stdout", out[:100]), ("stdout", out[100:]))

    def exit_code(self) -> int:
        return int(self.process.returncode)

    def send(self, data: bytes) -> None: ...

    def end_input(self) -> None: ...

    def close(self) -> None: ...


@dataclass
class Head:
    """A head whose container is this machine: with a `vllm` that copies a result, and fails from its third run on."""

    folder: Path
    name: str = "gpu1"
    asked: list[list[str]] = field(default_factory=list)

    @property
    def engine(self) -> Head:
        return self

    def container(self, name: str) -> Container:
        return look(running=True)

    def exec(self, container: str, argv: Sequence[str], *, environment: Mapping[str, str], stdin: bool) -> Here:
        (self.folder / "result").write_text(RESULT, encoding="utf-8")
        program = self.folder / "vllm"
        lines = (
            "#!/bin/sh",
            f'echo x >> {self.folder}/runs; [ "$(wc -l < {self.folder}/runs)" -gt 2 ] && echo "no route" >&2 && exit 5',
            f'while [ $# -gt 0 ]; do [ "$1" = --result-dir ] && cp {self.folder}/result "$2/result.json"; shift; done',
        )
        program.write_text("\n".join([*lines, "exit 0", ""]), encoding="utf-8")
        program.chmod(0o755)
        self.asked.append(list(argv))
        return Here(argv, {**environment, "PATH": f"{self.folder}:{os.environ['PATH']}"})


def test_what_was_measured_before_a_failure_is_kept(tmp_path: Path) -> None:
    head, levels = Head(tmp_path), list[Level]()
    target = Target(inventory(), "http://10.77.0.11:8000", count(1))
    asked = BenchOptions((DECODE,), (Load(concurrency=1), Load(concurrency=2)), 2, None)
    early = measured(cast(Host, head), target, asked, SILENT, levels)
    assert [(str(each.load), len(each.runs)) for each in levels] == [("1 request at once", 2)]
    assert levels[0].runs[0] == read_result(RESULT)
    assert early is not None
    assert "gpu1: `vllm bench serve` ended with exit code 5:\n  no route" in early
    seeds = [argv[argv.index("--seed") + 1] for argv in head.asked]
    assert seeds == ["1", "2", "3"]
    assert all("no_proxy=*" in argv for argv in head.asked)


def test_a_first_level_that_fails_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("x\nx\n", encoding="utf-8")
    target = Target(inventory(), "http://10.77.0.11:8000", count(1))
    with pytest.raises(ClusterctlError, match="no route"):
        measured(cast(Host, Head(tmp_path)), target, BenchOptions((DECODE,), (), 2, None), SILENT, [])


def test_records_survive_a_file(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json_text(to_json("bench", record())), encoding="utf-8")
    assert read_record(path, "bench", Benchmark) == record()


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        (Spread(100, 98, 102), Spread(101, 99, 103), "within"),
        (Spread(100, 98, 102), Spread(92, 91, 93), "within"),
        (Spread(100, 98, 102), Spread(80, 79, 81), "worse"),
        (Spread(100, 98, 102), Spread(130, 129, 131), "better"),
        (Spread(100, 50, 150), Spread(60, 55, 65), "within"),
    ],
    ids=str,
)
def test_only_ranges_that_do_not_meet_are_apart(old: Spread, new: Spread, verdict: str) -> None:
    assert judged(old, new, 0.05, higher_is_better=True) == verdict


def test_a_record_is_within_the_spread_of_itself() -> None:
    found = compare(record(), record(), where="old.json")
    assert found.within
    assert found.differences == ()
    assert len(found.same) == 3 * len(LEVELS)


def test_slower_matters_and_faster_does_not() -> None:
    slow = [level(1, 60, 61), *LEVELS[1:]]
    found = compare(record(), record(slow), where="old.json")
    assert not found.within
    assert [each.what for each in found.differences] == ["128 in, 512 out, 1 request at once: tokens/s"]
    back = compare(record(slow), record(), where="old.json")
    assert back.within
    assert "better" in back.differences[0].why


def test_a_longer_wait_for_the_first_token_matters() -> None:
    late = [level(1, 100, 101, ttft=60), *LEVELS[1:]]
    found = compare(record(), record(late), where="old.json")
    assert [each.what.rpartition(": ")[2] for each in found.differences if each.matters] == [
        "time to first token, median"
    ]


def test_lost_requests_matter() -> None:
    lost = Level(DECODE, Load(concurrency=1), (run(100, failed=2), run(101)))
    found = compare(record(), record([lost, *LEVELS[1:]]), where="old.json")
    assert [(each.old, each.new) for each in found.differences] == [("0", "2")]
    assert not found.within


def test_records_without_a_common_load_are_no_comparison() -> None:
    found = compare(record([level(3, 100)]), record([level(5, 100)]), where="old.json")
    assert not found.within
    assert "--concurrency" in found.differences[0].why


def test_another_layout_is_told_and_judged_by_its_speed() -> None:
    found = compare(record(), record(shape=Shape("ray", 2, 2, 1, False)), where="old.json")
    assert found.within
    assert [each.what for each in found.differences] == ["layout"]


class Page(HTMLParser):
    """What a page refers to, and that its elements are closed in order."""

    VOID = ("meta", "link", "img", "br", "hr", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "data", "xlink:href")]
        if tag not in self.VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if (self.get_starttag_text() or "").endswith("/>") and (not self.open or self.open[-1] != tag):
            return  # an empty element, reported as its own end
        assert self.open.pop() == tag


def test_the_page_stands_alone() -> None:
    levels = [*LEVELS, *(level(each.load.concurrency or 1, 900, 905, traffic=PREFILL) for each in LEVELS)]
    text = ui.as_html(record(levels), None, None)
    page = Page(text)
    assert page.open == []
    assert page.references == []
    assert not re.search(r"https?://(?!10\.77\.0\.11)|@import|url\(|<script", text)
    assert page.tags.count("svg") == 2 * 3
    assert page.tags.count("circle") == 2 * len(LEVELS) * (1 + 3 + 3)
    assert "Saturated from 4 requests at once on" in text


def test_the_page_escapes_what_it_is_given() -> None:
    text = ui.as_html(record(model="<script>x</script>", notes=("a < b & c",)), None, None)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "a &lt; b &amp; c" in text


def test_an_earlier_record_is_drawn_beside() -> None:
    old = record([level(1, 90, 91), level(2, 180, 181)], made_at="2026-11-01T00:00:00Z")
    text = ui.as_html(record(), old, compare(old, record(), where="old.json"))
    assert "p50 then" in text
    assert Page(text).tags.count("circle") == (len(LEVELS) + 2) * (1 + 3 + 3)
    assert "old.json of 2026-11-01T00:00:00Z" in text


@given(
    st.lists(st.tuples(st.integers(1, 2048).map(float), st.floats(min_value=0, max_value=1e7)), min_size=1, max_size=8),
    st.booleans(),
)
def test_every_mark_lies_in_the_frame(points: list[tuple[float, float]], doubles: bool) -> None:
    drawn = ElementTree.fromstring(svg(Plot("a & b", "x", "y", (Series("<s>", tuple(points)),), doubles)))  # noqa: S314
    marks = drawn.findall("circle")
    assert len(marks) == len(points)
    for mark in marks:
        assert 64 <= float(mark.attrib["cx"]) <= 460 - 16
        assert 34 - 0.05 <= float(mark.attrib["cy"]) <= 300 - 66


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_ticks_reach_the_greatest_value(most: float) -> None:
    found = ticks(most)
    assert found[0] == 0
    assert found[-1] >= most * (1 - 1e-6)
    assert 3 <= len(found) <= 8


def test_what_ended_early_says_so() -> None:
    cut = record(ended_early="gpu1: no answer")
    assert "note: it ended early, and this is what was measured before: gpu1: no answer" in ui.as_lines(cut)
    assert "it ended early" in ui.as_html(cut, None, None)


def test_the_table_names_every_level() -> None:
    lines = "\n".join(ui.as_lines(record()))
    assert all(str(each.load) in lines for each in LEVELS)
    assert "Saturated from 4 requests at once on" in lines
