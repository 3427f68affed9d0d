"""What a way of serving decides."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One pipeline stage and the nodes that hold its tensor-parallel ranks (one, unless TP spans nodes)."""

    pipeline_rank: int
    nodes: tuple[str, ...]
