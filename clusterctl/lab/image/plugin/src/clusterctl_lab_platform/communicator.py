"""Shared memory inside a node, gloo over TCP between nodes."""

from __future__ import annotations

import socket

import torch
from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator


class LabCommunicator(CpuCommunicator):
    """vLLM's CPU communicator, made aware of nodes.

    Upstream decides by a group name that is equal on all ranks under Ray, also across nodes, and then waits for
    shared memory that the other node can never see.
    """

    def _all_group_ranks_share_shm_group_name(self) -> bool:
        # Both are collective calls: every rank makes both, whatever the first one answered.
        same_name: bool = super()._all_group_ranks_share_shm_group_name()
        hostnames = [""] * self.world_size
        torch.distributed.all_gather_object(hostnames, socket.gethostname(), group=self.device_group)
        return same_name and len(set(hostnames)) == 1
