"""Which node holds which pipeline stage, from the names of vLLM's Ray actors."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PP = re.compile(r"_PP(\d+)")
"""vllm_Worker_<id>[_TP{t}][_PP{p}], each part only where its size is above 1 (vLLM 0.32, v1/executor/ray_utils.py,
build_actor_name). With three or more nodes the order of stages is by random Ray node ID, so only the actors tell it
(vllm-ray-facts, surprise 5)."""


@dataclass(frozen=True)
class Stage:
    """One pipeline stage and the nodes that hold its tensor-parallel ranks (one, unless TP spans nodes)."""

    pipeline_rank: int
    nodes: tuple[str, ...]


def stages(workers: Mapping[str, Any], names: Mapping[str, str]) -> tuple[Stage, ...]:
    """Stages in order. `workers`: actor name → address; `names`: address → node name."""
    holders: dict[int, set[str]] = defaultdict(set)
    for actor, address in workers.items():
        match = _PP.search(actor)
        holders[int(match[1]) if match else 0].add(names.get(str(address), str(address)))
    return tuple(Stage(rank, tuple(sorted(nodes))) for rank, nodes in sorted(holders.items()))
