"""What is read from vLLM's log and from the agents' events: captured logs, and frames cut anywhere."""

from __future__ import annotations

import json
import re
from random import Random
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from clusterctl.agent.events import Event, parse_event
from clusterctl.agent.paths import SOURCES
from clusterctl.agent.reasons import FAILURES
from clusterctl.hosts.engine.engine import LogChunk
from clusterctl.hosts.engine.lines import Lines
from clusterctl.signatures import kernel as kernel_log
from clusterctl.signatures import nccl as nccl_log
from clusterctl.signatures import vllm as vllm_log
from clusterctl.signatures.start import KEEP, KvCache, kv_cache, step_of
from tests.unit.support import FIXTURES


def log(name: str) -> list[str]:
    lines = (FIXTURES / "logs" / f"{name}.log").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


HEALTHY = log("vllm-0.32-healthy")
NO_PYTHON_H = log("vllm-0.32-no-python-headers")
CAUSES = yaml.safe_load((FIXTURES / "causes.yaml").read_text(encoding="utf-8"))


def test_a_start_is_told_in_its_steps() -> None:
    told = [step.text for line in HEALTHY if (step := step_of(line))]
    once = list(dict.fromkeys(told))
    assert once == [
        "engine starting",
        "reserving accelerators in Ray",
        "workers connecting (world size 2)",
        "loading weights",
        "weights loaded in 0.01 s",
        "loading weights: 0% (0/3 shards)",
        "loading weights: 100% (3/3 shards)",
        "weights loaded in 0.02 s",
        "warming up",
        "KV cache: 2,097,152 tokens",
        "engine ready after 89.67 s",
        "API starting",
        "API listening",
    ]


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("INFO [gpu_model_runner.py:1] Model loading took 14.9889 GiB memory and 3.2 seconds", "model loaded: 14.9889 GiB on an accelerator"),  # noqa: E501
        ("INFO [monitor.py:34] torch.compile took 21.16 s in total", "compiled in 21.16 s"),
        ("INFO [gpu_worker.py:1] Available KV cache memory: 110.27 GiB", "KV cache: 110.27 GiB on an accelerator"),
        ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  42%|████ | 28/67", "capturing CUDA graphs: 42%"),
        ("\x1b[36m(RayWorkerProc pid=1)\x1b[0m Loading safetensors checkpoint shards:  45% Completed | 9/20 [00:01", "loading weights: 45% (9/20 shards)"),  # noqa: E501
        ("INFO: 10.0.0.1:1 - \"POST /v1/completions HTTP/1.1\" 200 OK", None),
        ("", None),
    ],
)  # fmt: skip
def test_single_steps(line: str, step: str | None) -> None:
    found = step_of(line)
    assert (found.text if found else None) == step


def test_kv_cache_of_a_real_start_and_of_the_agents_kept_lines() -> None:
    expected = KvCache(tokens=2097152, max_concurrency=4096.0, tokens_per_request=512)
    assert kv_cache(HEALTHY) == expected
    kept = [line for line in HEALTHY if any(pattern.search(line) for pattern in KEEP)]
    assert len(kept) == 1
    assert kv_cache(kept) == expected


def test_kv_cache_in_two_lines_and_of_several_ranks() -> None:
    lines = [
        "GPU KV cache size: 4,066,320 tokens",
        "GPU KV cache size: 4,000,000 tokens",
        "Maximum concurrency for 8,192 tokens per request: 488.28x",
    ]
    assert kv_cache(lines) == KvCache(4_000_000, 488.28, 8192)
    assert kv_cache(["nothing of it"]) == KvCache(None, None, None)


def test_a_start_that_failed_names_its_cause_first_and_shows_the_line_that_says_it() -> None:
    first, *_ = vllm_log.causes(NO_PYTHON_H)
    assert "compiler or Python's headers" in first.meaning
    assert "python3-dev" in first.fix
    shown = vllm_log.cause_lines(NO_PYTHON_H, 8)
    assert len(shown) <= 8
    assert any(line.endswith("fatal error: Python.h: No such file or directory") for line in shown)
    assert any("CppCompileError" in line for line in shown)
    assert not any("ActorHandleNotFound" in line or "core initialization failed" in line for line in shown)
    assert not any("\x1b" in line for line in shown)
    assert any("ip=10.77.1.2" in line for line in shown), "which node's worker it was"


def test_the_first_cause_does_not_depend_on_colours() -> None:
    coloured = [re.sub(r"^(\(RayWorkerProc[^)]*\))", "\x1b[36m\\1\x1b[0m", line) for line in NO_PYTHON_H]
    assert vllm_log.cause_lines(coloured, 8) == vllm_log.cause_lines(NO_PYTHON_H, 8)


def test_a_healthy_log_accuses_nobody_for_sure() -> None:
    # vLLM 0.32 prints F61's line also while it compiles for long: then it must not read as a verdict.
    assert {cause.failure_mode for cause in vllm_log.causes(HEALTHY)} <= {"F61"}
    assert all(cause.signature.harmless for cause in vllm_log.causes(HEALTHY))


def test_a_line_that_is_benign_under_ray_accuses_nobody() -> None:
    # F50: vLLM counts this node's GPUs only; Ray has the others.
    line = "WARNING 11-21 12:10:40 [parallel.py:1] Tensor parallel size (16) exceeds available GPUs (8)."
    assert vllm_log.causes([line]) == ()


def test_without_an_exception_the_last_lines_are_shown() -> None:
    assert vllm_log.cause_lines(["one", "", "two", "three"], 2) == ["two", "three"]
    assert vllm_log.cause_lines([], 5) == []


def test_consequences_are_shown_when_there_is_nothing_else() -> None:
    only = ["RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"]
    assert vllm_log.cause_lines(only, 5) == only


@pytest.mark.parametrize("case", CAUSES, ids=[f"{case['mode']} {case['line'][:40]}" for case in CAUSES])
def test_lines_that_are_explained(case: dict[str, str]) -> None:
    found = vllm_log.causes(["INFO nothing", case["line"], "INFO nothing"])
    assert found, "not explained"
    assert (found[0].failure_mode or "-") == case["mode"]
    assert found[0].line == case["line"].strip()
    assert case["fix"] in found[0].fix


def test_every_explanation_has_a_line_that_leads_to_it() -> None:
    explained = {vllm_log.causes([case["line"]])[0].meaning for case in CAUSES}
    everything = {signature.meaning for signature in vllm_log.SIGNATURES}
    assert everything - explained == set()


@given(st.lists(st.one_of(st.text(max_size=60), st.sampled_from(HEALTHY + NO_PYTHON_H)), max_size=8))
def test_no_line_breaks_the_reading(lines: list[str]) -> None:
    vllm_log.causes(lines)
    vllm_log.cause_lines(lines, 3)
    kv_cache(lines)
    for line in lines:
        step_of(line)


wild = st.text(st.sampled_from("0123456789.,x"), max_size=12)


@given(wild, wild)
def test_numbers_that_are_none_are_left_out(tokens: str, concurrency: str) -> None:
    kv_cache([f"KV cache size: {tokens} tokens, Maximum concurrency for {tokens} tokens per request: {concurrency}x"])  # fmt: skip # noqa: E501


# Events


def test_an_event_as_the_agent_writes_it() -> None:
    line = '{"event": "nodes", "t": 1795262907.41, "server": 3, "joined": ["10.77.1.1"], "expected": 2}'
    assert parse_event(line) == Event("nodes", 1795262907.41, 3, {"joined": ["10.77.1.1"], "expected": 2})


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Traceback (most recent call last):",
        '{"level": "info"}',
        '{"event": "phase"}',
        '{"event": "phase", "t": "soon"}',
        '{"event": "phase", "t": null}',
        '{"event": "phase", "t": 1',
        '{"event": 1, "t": 1e999999, "x": ' + "[" * 100_000,
        '{"event": "x", "t": 1' + "0" * 400 + "}",
        ' {"event": "phase", "t": 1}',
    ],
)
def test_anything_else_is_no_event(line: str) -> None:
    assert parse_event(line) is None


@given(st.text())
def test_no_text_breaks_the_reading_of_events(line: str) -> None:
    parse_event(line)
    parse_event('{"event":' + line)


def test_every_reason_that_the_agent_gives_up_with_is_explained() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in SOURCES.values())
    given_up = set(re.findall(r'GiveUpError\(\s*"([a-z-]+)"', source)) | {"agent-bug"}
    assert len(given_up) > 5
    assert given_up <= set(FAILURES)


stream = st.sampled_from(["stdout", "stderr"])


@given(
    st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=20), max_size=10),
    st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=20), max_size=10),
    st.randoms(use_true_random=False),
)
def test_lines_come_out_whole_however_their_frames_are_cut_and_mixed(
    out: list[str], err: list[str], random: Random
) -> None:
    rest: dict[Literal["stdout", "stderr"], bytes] = {
        "stdout": "".join(f"{line}\n" for line in out).encode(),
        "stderr": "".join(f"{line}\r\n" for line in err).encode(),
    }
    lines, got = Lines(), {"stdout": list[str](), "stderr": list[str]()}
    while any(rest.values()):
        name = random.choice([key for key, left in rest.items() if left])
        size = random.randint(1, 5)
        got[name] += lines.feed(LogChunk(name, rest[name][:size]))
        rest[name] = rest[name][size:]
    assert got == {"stdout": out, "stderr": err}
    assert list(lines.end()) == []


def test_last_words_without_a_newline_are_not_lost() -> None:
    lines = Lines()
    assert list(lines.feed(LogChunk("stderr", b"one\ntw"))) == ["one"]
    assert list(lines.feed(LogChunk("stdout", b"half \xc3"))) == []
    assert list(lines.end()) == ["half \N{REPLACEMENT CHARACTER}", "tw"]
    assert list(lines.end()) == []


def test_an_event_cut_in_two_frames_is_one_event() -> None:
    whole = json.dumps({"event": "phase", "t": 1.5, "phase": "größer"}, ensure_ascii=False).encode() + b"\n"
    for cut in range(len(whole)):
        lines = Lines()
        got = [*lines.feed(LogChunk("stderr", whole[:cut])), *lines.feed(LogChunk("stderr", whole[cut:]))]
        assert [parse_event(line) for line in got] == [Event("phase", 1.5, 0, {"phase": "größer"})]


def test_a_known_cause_has_one_name() -> None:
    everything = (*vllm_log.SIGNATURES, *nccl_log.SIGNATURES, *kernel_log.SIGNATURES)
    for table in (vllm_log.SIGNATURES, nccl_log.SIGNATURES, kernel_log.SIGNATURES):
        assert len({row.name for row in table}) == len(table)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", row.name) for row in everything)
    numbers = {row.name: row.failure_mode for row in everything}
    assert all(numbers[row.name] == row.failure_mode for row in everything), "one name, two failure modes"


def test_people_are_given_words_and_not_numbers() -> None:
    for row in (*vllm_log.SIGNATURES, *nccl_log.SIGNATURES, *kernel_log.SIGNATURES):
        assert not re.search(r"\bF\d+\b", f"{row.name} {row.meaning} {row.fix}")
