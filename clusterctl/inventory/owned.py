"""Variables and server options that clusterctl sets itself, in every mode; each mode has more (modes/)."""

from __future__ import annotations

from collections.abc import Mapping

DERIVED_ENV = frozenset({"VLLM_HOST_IP", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "VLLM_API_KEY"})
"""Environment that clusterctl sets itself on every node, per node (failure-modes.md, "Per-node environment"): a value
in the inventory would silently become every node's (vllm-ray-facts.md, surprise 4)."""


BALANCED_OUTSIDE: Mapping[str, str] = {
    "data-parallel-hybrid-lb": "an endpoint of each node",
    "data-parallel-external-lb": "an endpoint of each engine",
    "data-parallel-rank": "an endpoint of each engine",
}
"""`vllm serve` options (0.32) by which somebody else's load balancer shares requests out -> what they make."""


OWNED_OPTIONS: Mapping[str, str] = {
    "model": "use model.path",
    "served-model-name": "use model.name",
    "host": "use serve.host",
    "port": "use serve.port",
    "config": "put its content under serve.options",
    "api-key": "remove it: as an option the key would be visible in `ps`",
    "shutdown-timeout": "use timeouts.drain_s",
    "tensor-parallel-size": "use serve.tensor_parallel",
    "pipeline-parallel-size": "use serve.pipeline_parallel",
    "distributed-executor-backend": "use serve.executor",
    "data-parallel-size": "use serve.data_parallel",
    "data-parallel-size-local": "remove it: it follows from serve.data_parallel and nodes",
    "data-parallel-start-rank": "remove it: it follows from nodes",
    "data-parallel-address": "remove it: it follows from head",
    "data-parallel-backend": "use serve.executor",
    "enable-expert-parallel": "use serve.expert_parallel",
    "api-server-count": "use serve.api_servers",
    "nnodes": "remove it: it follows from nodes",
    "node-rank": "remove it: it follows from nodes",
    "master-addr": "remove it: it follows from head",
    "headless": "remove it: it follows from head",
}
"""`vllm serve` options (0.32) that clusterctl sets itself from other inventory fields -> what to do instead; `api-key`
would show in argv."""
