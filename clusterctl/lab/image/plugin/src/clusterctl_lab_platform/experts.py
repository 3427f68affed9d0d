"""What vLLM 0.32 lacks to spread a model's experts over CPU ranks: two changes to its own classes.

They replace methods by name, so another vLLM may not have them: then this fails, and says what is missing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def spread_over_ranks() -> None:
    """Change vLLM's classes in this process. Call it before the model is made; a second call changes nothing."""
    # Not above: vLLM's layers ask for the platform, which leads here.
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts  # noqa: PLC0415
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner  # noqa: PLC0415

    for changed, name in ((MoERunner, "_select_forward"), (CPUUnquantizedExperts, "apply")):
        if not hasattr(changed, name):
            raise NotImplementedError(f"the lab's plugin is for vLLM 0.32: {changed.__name__} has no {name}")
    MoERunner._select_forward = _opaque_forward
    if not hasattr(CPUUnquantizedExperts.apply, "__wrapped__"):
        CPUUnquantizedExperts.apply = _of_this_rank(CPUUnquantizedExperts.apply)


def _opaque_forward(self: Any) -> Callable[..., Any]:
    """On CPUs vLLM lets Dynamo trace through the experts; the other ranks' token counts would be constants there."""
    forward: Callable[..., Any] = (
        torch.ops.vllm.moe_forward if self._shared_experts is None else torch.ops.vllm.moe_forward_shared
    )
    return forward


def _of_this_rank(plain: Callable[..., Any]) -> Callable[..., Any]:
    """vLLM's CPU experts ignore the expert map: global ids reach a kernel that holds this rank's experts only, which
    ends in a segmentation fault."""
    signature = inspect.signature(plain)

    @wraps(plain)
    def apply(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        expert_map = bound.arguments.get("expert_map")
        if expert_map is not None:
            ids = bound.arguments["topk_ids"]
            local = expert_map[ids.long()]
            mine = local >= 0
            bound.arguments["topk_weights"] = torch.where(mine, bound.arguments["topk_weights"], 0.0)
            bound.arguments["topk_ids"] = torch.where(mine, local, 0).to(ids.dtype)
        return plain(*bound.args, **bound.kwargs)

    return apply
