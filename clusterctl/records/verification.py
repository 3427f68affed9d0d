"""The record of `verify`: what serves, as it was seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from clusterctl.records.outputs import Observed, Token, apart

ODD = 0.5
"""Log-probabilities of one prompt further apart than this are no rounding, in any precision that is served."""

MOST_NOISE = 0.1
"""More than this a cluster's own noise does not excuse."""


@dataclass(frozen=True)
class Software:
    """Versions in one node's container, as it runs; None: not in the image."""

    vllm: str | None
    ray: str | None
    torch: str | None
    transformers: str | None
    nccl: str | None
    cuda: str | None
    """The CUDA release that torch was built for."""
    driver_cuda: str | None
    """The newest CUDA that the driver runs."""
    python: str
    digest: str
    """SHA-256 over all Python distributions and their versions."""


@dataclass(frozen=True)
class Device:
    """One accelerator's memory, in MiB."""

    index: int
    name: str
    used_mib: int | None
    total_mib: int | None


@dataclass(frozen=True)
class Machine:
    """One node as it serves."""

    role: str
    image: str | None
    """ID of the image."""
    driver: str | None
    """Version of the NVIDIA kernel module."""
    kernel: str | None
    software: Software | None
    software_reason: str | None
    """Why the versions are not known."""
    gpus: tuple[Device, ...]
    stages: tuple[int, ...]
    """Pipeline stages that it holds."""
    restarts: int
    """How often something in its container was started again since the container was made."""


@dataclass(frozen=True)
class Shape:
    """How the model lies on the nodes."""

    executor: str | None
    tensor_parallel: int | None
    pipeline_parallel: int | None
    data_parallel: int
    expert_parallel: bool

    def __str__(self) -> str:
        experts = ", whole experts on each rank" if self.expert_parallel else ""
        engines = f"DP={self.data_parallel} x " if self.data_parallel > 1 else ""
        sizes = f"TP={self.tensor_parallel} x PP={self.pipeline_parallel}"
        return f"{engines}{sizes}{experts}, executor {self.executor or 'unknown'}"


@dataclass(frozen=True)
class KvRoom:
    """Tokens that the KV cache of one engine holds."""

    predicted: int | None
    predicted_reason: str | None
    """Why nothing is predicted; None where something is."""
    tokens: int | None
    """As vLLM logged it."""
    max_concurrency: float | None
    tokens_per_request: int | None


@dataclass(frozen=True)
class Transport:
    """What carries the traffic between ranks, as far as something proves it."""

    proven: bool
    said: str
    """What the logs prove, or why they prove nothing."""
    networks: tuple[str, ...] = ()
    """Networks that NCCL's channels between nodes use: IB, Socket …"""


@dataclass(frozen=True)
class EngineHealth:
    """One engine, asked for a completion by its rank."""

    rank: int
    nodes: tuple[str, ...]
    latency_s: float | None
    """Of a completion; None where none came."""
    reason: str | None
    """Why none came."""
    answer: tuple[Token, ...] = ()
    """To the prompt of `greedy`."""


@dataclass(frozen=True)
class Verification:
    """Everything that was observed of a cluster that serves."""

    made_at: str
    """UTC, ISO 8601."""
    clusterctl: str
    cluster: str
    model: str
    model_path: str
    endpoint: str
    state: str
    drift: tuple[str, ...]
    """What differs from the inventory."""
    findings: tuple[str, ...]
    """Errors that `check` would report, with their codes."""
    image: str
    nodes: Mapping[str, Machine]
    shape: Shape
    kv_cache: KvRoom
    transport: Transport
    engines: tuple[EngineHealth, ...]
    outputs: tuple[Observed, ...]
    problems: tuple[str, ...]
    """Why this is no proof that the cluster works; empty where it is."""


def problems_of(
    state: str, declared: tuple[str, ...], engines: tuple[EngineHealth, ...], outputs: tuple[Observed, ...]
) -> tuple[str, ...]:
    """What keeps the record from being a proof. `declared`: what is not as the inventory, or `check`, wants it."""
    found = [] if state == "healthy" else [f"the cluster is {state}, not healthy (clusterctl status says why)"]
    found += declared
    found += [f"engine {each.rank} gave no completion: {each.reason}" for each in engines if each.reason is not None]
    found += [
        f"no output of the request `{each.name}`: {each.reason}"
        for each in outputs
        if each.reason is not None and not each.impossible
    ]
    return (*found, *_disagreements(engines, outputs))


def _disagreements(engines: tuple[EngineHealth, ...], outputs: tuple[Observed, ...]) -> Iterator[str]:
    """Answers to one prompt that no rounding explains."""
    reference = _reference(outputs)
    if reference is None:
        return
    who = {f"engine {each.rank}": each.answer for each in engines if each.answer}
    who |= {
        f"request {number} of `{each.name}`": answer
        for each in outputs
        if each.prompt == reference.prompt
        for number, answer in enumerate(each.answers, start=1)
    }
    for name, answer in who.items():
        found = apart(reference.answers[0], answer)
        if found.greatest > ODD:
            yield (
                f"{name} and `greedy` had the same prompt, and their log-probabilities are {found.greatest:.3f} apart: "
                "engines or ranks that hold different weights?"
            )
        elif found.parted is not None and found.parted[3] > ODD:
            place, one, other, _ = found.parted
            yield (
                f"{name} and `greedy` had the same prompt, and part at token {place + 1} ({other!r} in place of "
                f"{one!r}), which is no near tie: engines or ranks that hold different weights?"
            )


def own_noise(record: Verification) -> float:
    """How far the cluster's log-probabilities of one prompt are apart by themselves: alone, streamed, on each engine,
    and beside others in a burst (sums are rounded in another order)."""
    reference = _reference(record.outputs)
    if reference is None:
        return 0.0
    same = [answer for each in record.outputs if each.prompt == reference.prompt for answer in each.answers]
    same += [each.answer for each in record.engines if each.answer]
    return min(MOST_NOISE, max((apart(reference.answers[0], answer).greatest for answer in same), default=0.0))


def _reference(outputs: tuple[Observed, ...]) -> Observed | None:
    return next((each for each in outputs if each.name == "greedy" and each.answers), None)
