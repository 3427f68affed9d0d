"""Variables and server options that clusterctl itself sets."""

from __future__ import annotations

DERIVED_ENV = frozenset(
    {
        "VLLM_HOST_IP",
        "GLOO_SOCKET_IFNAME",
        "NCCL_SOCKET_IFNAME",
        "RAY_ADDRESS",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        "VLLM_API_KEY",
        "VLLM_CONFIG_ROOT",
    }
)
"""Environment that clusterctl sets itself on every node, per node (failure-modes.md, "Per-node environment"): a value
in the inventory would silently become every node's (vllm-ray-facts.md, surprise 4)."""


OWNED_OPTIONS = frozenset(
    {
        "model",
        "served-model-name",
        "host",
        "port",
        "tensor-parallel-size",
        "pipeline-parallel-size",
        "distributed-executor-backend",
        "config",
        "api-key",
        "nnodes",
        "node-rank",
        "master-addr",
        "master-port",
        "headless",
        "shutdown-timeout",
    }
)
"""`vllm serve` options (0.32) that clusterctl sets itself from other inventory fields; `api-key` would show in argv
(F68)."""
