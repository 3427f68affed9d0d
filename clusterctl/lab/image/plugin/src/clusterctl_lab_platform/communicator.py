"""Shared memory inside a node, gloo over TCP between nodes; and what experts on several ranks ask of a communicator."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import torch
from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

from .experts import spread_over_ranks


class LabCommunicator(CpuCommunicator):
    """vLLM's CPU communicator, made aware of nodes and able to exchange tokens for experts.

    Upstream decides by a group name that is equal on all ranks under Ray, also across nodes, and then waits for
    shared memory that the other node can never see. Of the exchange between experts' ranks it has the manager, and
    not the two operations that the manager calls (vLLM 0.32).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.is_ep_communicator:  # of models with experts alone
            spread_over_ranks()

    def _all_group_ranks_share_shm_group_name(self) -> bool:
        # Both are collective calls: every rank makes both, whatever the first one answered.
        same_name: bool = super()._all_group_ranks_share_shm_group_name()
        hostnames = [""] * self.world_size
        torch.distributed.all_gather_object(hostnames, socket.gethostname(), group=self.device_group)
        return same_name and len(set(hostnames)) == 1

    def all_gatherv(
        self, input_: torch.Tensor | list[torch.Tensor], dim: int = 0, sizes: Sequence[int] | None = None
    ) -> torch.Tensor | list[torch.Tensor]:
        """Every rank's rows, of which each may have another number (`sizes`, by rank)."""
        _first_dimension(dim)
        if isinstance(input_, torch.Tensor):
            return self._gathered(input_, sizes)
        return [self._gathered(tensor, sizes) for tensor in input_]

    def _gathered(self, tensor: torch.Tensor, sizes: Sequence[int] | None) -> torch.Tensor:
        """Gloo gathers equal shapes only: padded to the longest, and cut."""
        if self.world_size == 1:
            return tensor
        rows = [tensor.shape[0]] * self.world_size if sizes is None else list(sizes)
        padded = tensor.new_zeros((max(rows), *tensor.shape[1:]))
        padded[: tensor.shape[0]] = tensor
        parts = [torch.empty_like(padded) for _ in rows]
        torch.distributed.all_gather(parts, padded, group=self.device_group)
        return torch.cat([part[:size] for part, size in zip(parts, rows, strict=True)])

    def reduce_scatterv(self, input_: torch.Tensor, dim: int = -1, sizes: Sequence[int] | None = None) -> torch.Tensor:
        """The sum over all ranks, of which each keeps its own rows (`sizes`, by rank)."""
        _first_dimension(dim)
        if self.world_size == 1:
            return input_
        rows = [input_.shape[0] // self.world_size] * self.world_size if sizes is None else list(sizes)
        total = input_.contiguous().clone()
        torch.distributed.all_reduce(total, group=self.device_group)
        start = sum(rows[: self.rank_in_group])
        return total[start : start + rows[self.rank_in_group]].contiguous()


def _first_dimension(dim: int) -> None:
    if dim != 0:
        raise NotImplementedError(f"dimension {dim}: vLLM 0.32 exchanges tokens along the first one only")
