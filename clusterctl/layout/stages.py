"""Layers per pipeline stage, as vLLM divides them. Pure."""

from __future__ import annotations


def layers_per_stage(layers: int, stages: int, partition: str | None = None) -> tuple[int, ...]:
    """Layers of each stage, the first one first (vLLM 0.32, distributed/utils.py: get_pp_indices).

    The remainder goes to the stages before the last, from the back: the last one also has the norm and the output head.
    `partition` is VLLM_PP_LAYER_PARTITION (`10,11,11`). Raises ValueError, with a sentence, when it does not fit.
    """
    if partition:
        return _given(layers, stages, partition)
    each, rest = divmod(layers, stages)
    split = [each] * stages
    for place in range(2, rest + 2):
        split[-place] += 1
    return tuple(split)


def _given(layers: int, stages: int, partition: str) -> tuple[int, ...]:
    try:
        split = tuple(int(part) for part in partition.split(","))
    except ValueError:
        raise ValueError(f"VLLM_PP_LAYER_PARTITION {partition!r} is no list of numbers") from None
    if len(split) != stages or sum(split) != layers:
        raise ValueError(
            f"VLLM_PP_LAYER_PARTITION {partition} has {len(split)} stages and {sum(split)} layers; "
            f"there are {stages} stages and {layers} layers"
        )
    return split
