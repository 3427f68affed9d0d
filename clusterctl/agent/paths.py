"""Names and places that the code on both sides of a container's wall agrees on."""

from __future__ import annotations

CONFIG_DIR = "/etc/clusterctl"


AGENT_PATH = "/opt/clusterctl/agent.py"


CHILDREN_PATH = "/opt/clusterctl/children.py"


MIDDLEWARE_PATH = "/opt/clusterctl/clusterctl_middleware.py"


SOURCES = (AGENT_PATH, CHILDREN_PATH, MIDDLEWARE_PATH)
"""Programs: a plan says that they differ, not how."""


AGENT_CONFIG_PATH = f"{CONFIG_DIR}/agent.json"


SETTINGS_PATH = f"{CONFIG_DIR}/settings.json"


SERVER_PATH = f"{CONFIG_DIR}/server.json"


SERVER_CONFIG_PATH = f"{CONFIG_DIR}/vllm.yaml"


ADOPTED_PATH = f"{CONFIG_DIR}/adopted"
"""Exists from the moment that `up` has seen the cluster serve: from then on the agent heals."""


SPEC_PATH = f"{CONFIG_DIR}/spec.json"


RAY_TOKEN_PATH = f"{CONFIG_DIR}/ray-token"


API_KEY_PATH = f"{CONFIG_DIR}/api-key"
"""On the head only."""


VLLM_CONFIG_ROOT = f"{CONFIG_DIR}/vllm"


NOT_CARRIED_PATH = f"{VLLM_CONFIG_ROOT}/ray_non_carry_over_env_vars.json"
"""vLLM reads it when it is imported: vllm/ray/ray_env.py (0.32)."""


STATE_PATH = "/run/clusterctl/state.json"


REQUEST_PATH = "/run/clusterctl/request.json"
"""What SIGUSR1 asks the agent for: {"action": "drain" | "restart", "by": …, "drain_s": seconds to wait at most}."""


def container_name(cluster: str) -> str:
    """Name of a cluster's container, the same on every node."""
    return f"{cluster}-node"
