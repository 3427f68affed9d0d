"""Every way in which these nodes can serve this model, the best first: how many engines, and how each lies. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace

from clusterctl.inventory.layout import engine_counts, engine_room
from clusterctl.layout.candidate import Candidate, Load, judge
from clusterctl.layout.estimate import Model, Shape, Speed, Workload, exchanged_bytes, model_of, speed
from clusterctl.layout.hardware import Accelerator, accelerator
from clusterctl.layout.links import Hardware, Link


@dataclass(frozen=True)
class Way:
    """One way to serve."""

    engines: int
    nodes_per_engine: int
    expert_parallel: bool
    candidate: Candidate
    """Of one engine."""
    links: tuple[Link, ...]
    """What its ranks exchange over, the most used first."""
    exchanged_bytes: int | None
    """What a rank sends for one token; None where the model's sizes are not known."""
    speed: Speed | None
    """None where no estimate is possible; `Ranking.unknown` says why."""

    @property
    def tensor_spans_nodes(self) -> bool:
        """Whether a layer's ranks lie on several nodes."""
        return self.candidate.pipeline_parallel < self.nodes_per_engine

    @property
    def kv_tokens(self) -> int | None:
        """Tokens of KV cache, of all engines."""
        tokens = self.candidate.kv_tokens
        return None if tokens is None else tokens * self.engines

    @property
    def settings(self) -> dict[str, int | bool]:
        """What `serve` says for it."""
        sizes: dict[str, int | bool] = {
            "tensor_parallel": self.candidate.tensor_parallel,
            "pipeline_parallel": self.candidate.pipeline_parallel,
        }
        engines = {"data_parallel": self.engines} if self.engines > 1 else {}
        experts = {"expert_parallel": True} if self.expert_parallel else {}
        return {**engines, **sizes, **experts}


@dataclass(frozen=True)
class Ranking:
    """All of them, for a workload."""

    workload: Workload
    ways: tuple[Way, ...]
    """The best first, for many requests at once; those that are not possible last."""
    inside: Link | None
    between: Link | None
    alone: Speed | None
    """One accelerator by itself, to compare with; None where the model does not fit it, or no estimate is possible."""
    unknown: tuple[str, ...]
    """Why there is no estimate, of some or of all."""

    @property
    def for_one(self) -> Way | None:
        """The one that gives a single request its tokens fastest."""
        known = [way for way in self.ways if way.candidate.possible and way.speed is not None]
        return max(known, key=lambda way: way.speed.one_tokens_per_s if way.speed else 0.0, default=None)


def ranking(load: Load, hardware: Hardware, work: Workload) -> Ranking:
    """The ways, in order."""
    figures = accelerator(hardware.gpu) if hardware.gpu is not None else None
    one = judge(replace(load, expert_parallel=False, engines=1), 1, 1)
    model = model_of(load.arch, load.tensors, _kv_bytes(one))
    estimates = _Estimates(model, figures, hardware.inside, hardware.between, work)
    ways = [_way(load, estimates, sizes) for sizes in sizes_of(load, len(hardware.nodes), hardware.per_node)]
    alone = estimates.of(Shape(1, 1, 1, None, None), one) if one.possible else None
    return Ranking(
        workload=work,
        ways=tuple(sorted(ways, key=_order)),
        inside=hardware.inside,
        between=hardware.between,
        alone=alone,
        unknown=tuple(_unknown(estimates, ways, hardware.gpu)),
    )


@dataclass(frozen=True)
class Sizes:
    """Of one way to serve."""

    engines: int
    nodes: int
    """Of each engine."""
    tensor: int
    pipeline: int
    experts: bool = False
    """Whether ranks hold whole experts."""


def sizes_of(load: Load, nodes: int, per_node: int) -> Iterator[Sizes]:
    """All sizes that use every accelerator, with whole experts too where the model has some."""
    for engines in engine_counts(nodes, per_node):
        own_nodes, slots = engine_room(nodes, per_node, engines)
        for tensor, pipeline in _splits(own_nodes, slots):
            yield Sizes(engines, own_nodes, tensor, pipeline)
            if load.arch.experts and tensor * engines > 1 and pipeline == 1:
                yield Sizes(engines, own_nodes, tensor, pipeline, experts=True)


def _splits(nodes: int, slots: int) -> Iterator[tuple[int, int]]:
    """Tensor and pipeline parallel of one engine: inside its nodes, then across them."""
    for tensor in range(slots, 0, -1):
        if slots % tensor == 0:
            yield tensor, nodes * slots // tensor
    for width in range(2, nodes + 1):
        if nodes % width == 0:
            yield slots * width, nodes // width


@dataclass(frozen=True)
class _Estimates:
    """What every estimate needs."""

    model: Model | None
    figures: Accelerator | None
    within: Link | None
    across: Link | None
    work: Workload

    def of(self, shape: Shape, candidate: Candidate) -> Speed | None:
        """The estimate for a shape whose links are known."""
        if self.model is None or self.figures is None:
            return None
        return speed(self.model, self.figures, shape, self.work, candidate.kv_tokens)


def _way(load: Load, estimates: _Estimates, sizes: Sizes) -> Way:
    engines, nodes, tensor, pipeline, experts = astuple(sizes)
    candidate = judge(replace(load, expert_parallel=experts, engines=engines), tensor, pipeline)
    spans = pipeline < nodes
    tensor_link = None if tensor == 1 else estimates.across if spans else estimates.within
    pipeline_link = None if pipeline == 1 else estimates.across if nodes > 1 else estimates.within
    several = engines > 1 and estimates.across is not None
    # Experts are divided over the ranks of all engines, whole or not; then the engines work in step.
    exchanged = experts or (engines > 1 and bool(load.arch.experts))
    expert_link = None if not exchanged else estimates.across if several or spans else estimates.within
    shape = Shape(engines, tensor, pipeline, tensor_link, pipeline_link, expert_link)
    needed = [(tensor > 1, tensor_link), (pipeline > 1, pipeline_link), (exchanged, expert_link)]
    known = all(link is not None for is_needed, link in needed if is_needed)
    return Way(
        engines=engines,
        nodes_per_engine=nodes,
        expert_parallel=experts,
        candidate=candidate,
        links=tuple(dict.fromkeys(link for is_needed, link in needed if is_needed and link is not None)),
        exchanged_bytes=exchanged_bytes(estimates.model, shape) if estimates.model is not None else None,
        speed=estimates.of(shape, candidate) if known and candidate.possible else None,
    )


def _order(way: Way) -> tuple[bool, bool, float, bool, int, int]:
    """What is possible first, by its estimate. Without one: what exchanges least, which is engines by themselves before
    stages, stages before layers that are divided across nodes, and large tensor parallel inside a node before small."""
    candidate = way.candidate
    rate = way.speed.tokens_per_s if way.speed is not None else 0.0
    return (
        not candidate.possible,
        way.speed is None,
        -rate,
        way.tensor_spans_nodes,
        -way.engines if candidate.fits else way.engines,
        -candidate.tensor_parallel,
    )


def _kv_bytes(one: Candidate) -> int | None:
    """KV cache of one token on one accelerator that holds everything."""
    return one.stages[0].kv_bytes_per_token if one.stages else None


def _unknown(estimates: _Estimates, ways: list[Way], name: str | None) -> Iterator[str]:
    if name is None:
        yield "no estimate of speed: no GPUs of one kind were read"
    elif estimates.figures is None:
        yield f"no estimate of speed: what a {name} can do is not known here"
    elif estimates.model is None:
        yield "no estimate of speed: the model's sizes are not all known"
    elif any(way.candidate.possible and way.speed is None for way in ways):
        yield "how fast the nodes reach each other is not known: clusterctl layout --bandwidth measures it"
