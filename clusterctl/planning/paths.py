"""Names and places that the code on both sides of a container's wall agrees on."""

CONFIG_DIR = "/etc/clusterctl"
AGENT_PATH = "/opt/clusterctl/agent.py"
AGENT_CONFIG_PATH = f"{CONFIG_DIR}/agent.json"
SERVER_CONFIG_PATH = f"{CONFIG_DIR}/vllm.yaml"
SPEC_PATH = f"{CONFIG_DIR}/spec.json"
RAY_TOKEN_PATH = f"{CONFIG_DIR}/ray-token"
API_KEY_PATH = f"{CONFIG_DIR}/api-key"
"""On the head only."""
VLLM_CONFIG_ROOT = f"{CONFIG_DIR}/vllm"
NOT_CARRIED_PATH = f"{VLLM_CONFIG_ROOT}/ray_non_carry_over_env_vars.json"
"""vLLM reads it when it is imported: vllm/ray/ray_env.py (0.32)."""
STATE_PATH = "/run/clusterctl/state.json"


def container_name(cluster: str) -> str:
    """Name of a cluster's container, the same on every node."""
    return f"{cluster}-node"
