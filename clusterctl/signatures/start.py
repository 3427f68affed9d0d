"""Steps of vLLM's start, and the size of its KV cache, as its log shows them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from clusterctl.signatures.signature import ANSI


@dataclass(frozen=True)
class Step:
    """A step of vLLM's start, as a person reads it."""

    text: str


# vLLM 0.32 (vllm-ray-facts.md lists the lines in order).
_STEPS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r"Initializing a V1 LLM engine", "engine starting"),
        (r"Creating a new placement group|Waiting for creating a placement group", "reserving accelerators in Ray"),
        (r"world_size=(\d+) rank=\d+ local_rank=\d+ distributed_init_method=", "workers connecting (world size {0})"),
        (r"Starting to load model", "loading weights"),
        (r"checkpoint shards:\s+(\d+)% Completed \| (\d+)/(\d+)", "loading weights: {0}% ({1}/{2} shards)"),
        (r"Loading weights took ([\d.]+) seconds", "weights loaded in {0} s"),
        (r"Model loading took ([\d.]+) ?GiB", "model loaded: {0} GiB on an accelerator"),
        (r"torch\.compile took ([\d.]+) s", "compiled in {0} s"),
        (r"Available KV cache memory: ([\d.]+) GiB", "KV cache: {0} GiB on an accelerator"),
        (r"KV cache size: ([\d,]+) tokens", "KV cache: {0} tokens"),
        (r"Capturing CUDA graphs.*?(\d+)%", "capturing CUDA graphs: {0}%"),
        (r"Warming up model|Warming up", "warming up"),
        (r"init engine \(.*?\) took ([\d.]+) s", "engine ready after {0} s"),
        (r"Starting vLLM (?:API )?server", "API starting"),
        (r"Application startup complete", "API listening"),
    )
)


_KV_TOKENS = re.compile(r"KV cache size: (\d[\d,]{0,20}) tokens")


_CONCURRENCY = re.compile(r"Maximum concurrency for (\d[\d,]{0,20}) tokens per request: (\d+(?:\.\d+)?)x")


KEEP = (_KV_TOKENS, _CONCURRENCY)
"""Lines that the agent keeps in its state, so that `status` need not read the whole log."""


@dataclass(frozen=True)
class KvCache:
    """What vLLM logged about its KV cache. `tokens` is of the smallest rank; all others shrink to it."""

    tokens: int | None
    max_concurrency: float | None
    tokens_per_request: int | None


def step_of(line: str) -> Step | None:
    """The step of vLLM's start that a line reports, if any."""
    line = ANSI.sub("", line)
    for pattern, text in _STEPS:
        if match := pattern.search(line):
            return Step(text.format(*match.groups()))
    return None


def kv_cache(lines: Iterable[str]) -> KvCache:
    """KV cache size and concurrency (one line in vLLM 0.32, two in 0.27)."""
    tokens = concurrency = per_request = None
    for line in lines:
        line = ANSI.sub("", line)  # noqa: PLW2901
        if match := _KV_TOKENS.search(line):
            found = int(match[1].replace(",", ""))
            tokens = found if tokens is None else min(tokens, found)
        if match := _CONCURRENCY.search(line):
            concurrency, per_request = float(match[2]), int(match[1].replace(",", ""))
    return KvCache(tokens, concurrency, per_request)
