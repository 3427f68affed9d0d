"""The record of `bench`: what `vllm bench serve` measured, run by run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clusterctl.errors import ClusterctlError
from clusterctl.records.spread import Spread, spread
from clusterctl.records.verification import Shape

KNOWN_SPREAD = 0.05
"""Runs are repeated until their throughputs lie within this fraction of each other."""


@dataclass(frozen=True)
class Traffic:
    """What requests are like: random prompts of one length, answers of one length."""

    input_tokens: int
    output_tokens: int

    def __str__(self) -> str:
        return f"{self.input_tokens} in, {self.output_tokens} out"


@dataclass(frozen=True)
class Load:
    """How many requests: so many at once, or so many a second, whether they are answered or not."""

    concurrency: int | None = None
    request_rate: float | None = None

    @property
    def amount(self) -> float:
        """The number."""
        return float(self.concurrency if self.concurrency is not None else self.request_rate or 0)

    @property
    def unit(self) -> str:
        """Of the number."""
        return "requests at once" if self.concurrency is not None else "requests/s"

    def __str__(self) -> str:
        return "1 request at once" if self.concurrency == 1 else f"{self.amount:g} {self.unit}"


@dataclass(frozen=True)
class Latency:
    """In milliseconds."""

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Run:
    """One run of `vllm bench serve`."""

    completed: int
    failed: int
    duration_s: float
    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    """Of prompts and answers."""
    ttft: Latency
    """To the first token."""
    tpot: Latency
    """For each further token of a request, on average."""
    itl: Latency
    """Between two tokens."""
    e2el: Latency
    """Of whole requests."""


@dataclass(frozen=True)
class Level:
    """One kind of requests at one load, as often as it was run."""

    traffic: Traffic
    load: Load
    runs: tuple[Run, ...]

    @property
    def tokens_per_s(self) -> Spread:
        """Of prompts and answers."""
        return _spread([run.total_tokens_per_s for run in self.runs])

    @property
    def output_tokens_per_s(self) -> Spread:
        """Of answers."""
        return _spread([run.output_tokens_per_s for run in self.runs])

    @property
    def requests_per_s(self) -> Spread:
        """That were completed."""
        return _spread([run.requests_per_s for run in self.runs])

    def latency(self, metric: str, percentile: str) -> Spread:
        """ttft, tpot, itl or e2el; mean, p50, p90 or p99; in milliseconds."""
        return _spread([getattr(getattr(run, metric), percentile) for run in self.runs])


@dataclass(frozen=True)
class Saturation:
    """From which load on more requests only wait."""

    traffic: Traffic
    load: Load | None
    """None: throughput still rose at the highest load that was tried."""
    rule: str
    advice: str


@dataclass(frozen=True)
class Benchmark:
    """Everything that was measured, and of what."""

    made_at: str
    """UTC, ISO 8601."""
    clusterctl: str
    cluster: str
    model: str
    model_path: str
    endpoint: str
    image: str
    vllm: str | None
    shape: Shape
    kv_tokens: int | None
    """Of each engine's KV cache."""
    max_model_len: int | None
    levels: tuple[Level, ...]
    saturation: tuple[Saturation, ...]
    notes: tuple[str, ...]
    """What to know when reading the numbers."""
    ended_early: str | None
    """Why it is not everything that was asked for; None where it is."""

    @property
    def traffics(self) -> tuple[Traffic, ...]:
        """The kinds of requests, in the order in which they were measured."""
        return tuple(dict.fromkeys(level.traffic for level in self.levels))

    def levels_of(self, traffic: Traffic) -> tuple[Level, ...]:
        """By load."""
        return tuple(sorted((each for each in self.levels if each.traffic == traffic), key=lambda e: e.load.amount))


def read_result(text: str) -> Run:
    """One result file of `vllm bench serve --save-result` (vLLM 0.32). Raises ClusterctlError."""
    try:
        said = json.loads(text)
        completed = int(said["completed"])
        run = Run(
            completed=completed,
            failed=int(said.get("failed", said["num_prompts"] - completed)),
            duration_s=float(said["duration"]),
            requests_per_s=float(said["request_throughput"]),
            output_tokens_per_s=float(said["output_throughput"]),
            total_tokens_per_s=float(said["total_token_throughput"]),
            **{metric: _latency(said, metric) for metric in ("ttft", "tpot", "itl", "e2el")},
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ClusterctlError(
            f"what `vllm bench serve` wrote is no result that this clusterctl reads ({error!r}): {text[:200]}",
            hint="clusterctl exec NODE -- vllm bench serve --help says what the image's vLLM can do",
        ) from error
    if not run.completed:
        raise ClusterctlError(
            f"none of {run.failed} requests was answered", hint="clusterctl status and clusterctl logs say why"
        )
    return run


def enough(runs: Sequence[Run], most: int) -> bool:
    """Whether the spread is known: two runs at least that agree, or as many as are wanted at most."""
    found = spread([run.total_tokens_per_s for run in runs])
    return len(runs) >= most or (len(runs) > 1 and found is not None and found.relative <= KNOWN_SPREAD)


def unsteady(levels: Sequence[Level]) -> str | None:
    """What to know of runs that did not come to agree; None where all did."""
    apart = [level for level in levels if len(level.runs) > 1 and level.tokens_per_s.relative > KNOWN_SPREAD]
    if not apart:
        return None
    most = max(level.tokens_per_s.relative for level in apart)
    return (
        f"the throughputs of {len(apart)} of {len(levels)} levels lie up to {most:.0%} apart between runs: something "
        "else uses the machines or the network, or the runs are short (--requests, --repeat)"
    )


def _latency(said: Mapping[str, Any], metric: str) -> Latency:
    return Latency(
        mean=float(said[f"mean_{metric}_ms"]),
        **{percentile: float(said[f"{percentile}_{metric}_ms"]) for percentile in ("p50", "p90", "p99")},
    )


def _spread(values: Sequence[float]) -> Spread:
    found = spread(values)
    assert found is not None  # noqa: S101 (a level has runs)
    return found
