"""Variables and server options that clusterctl sets itself, in every mode; each mode has more (modes/)."""

from __future__ import annotations

from collections.abc import Mapping

DERIVED_ENV = frozenset({"VLLM_HOST_IP", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "VLLM_API_KEY"})
"""Environment that clusterctl sets itself on every node, per node (failure-modes.md, "Per-node environment"): a value
in the inventory would silently become every node's (vllm-ray-facts.md, surprise 4)."""


OWNED_OPTIONS: Mapping[str, str] = {
    "model": "use model.path",
    "served-model-name": "use model.name",
    "host": "use serve.host",
    "port": "use serve.port",
    "config": "put its content under serve.options",
    "api-key": "remove it: as an option the key would be visible in `ps`",
    "shutdown-timeout": "use timeouts.drain_s",
}
"""`vllm serve` options (0.32) that clusterctl sets itself from other inventory fields -> what to do instead; `api-key`
would show in argv."""
