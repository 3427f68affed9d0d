"""Names and places that the code on both sides of a container's wall agrees on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CONFIG_DIR = "/etc/clusterctl"


AGENT_PATH = "/opt/clusterctl/clusterctl_agent"
"""The agent's package, which python3 runs (inside/__main__.py). Nothing else lies in the directory above it: a file
there would hide a module of the image's that has its name."""


SOURCES: Mapping[str, Path] = {
    f"{AGENT_PATH}/{file.name}": file for file in sorted(Path(__file__).with_name("inside").glob("*.py"))
}
"""Programs: path in the container -> the file here. A plan says that they differ, not how."""


AGENT_CONFIG_PATH = f"{CONFIG_DIR}/agent.json"


SETTINGS_PATH = f"{CONFIG_DIR}/settings.json"


SERVER_PATH = f"{CONFIG_DIR}/server.json"


SERVER_CONFIG_PATH = f"{CONFIG_DIR}/vllm.yaml"


ADOPTED_PATH = f"{CONFIG_DIR}/adopted"
"""Exists from the moment that `up` has seen the cluster serve: from then on the agent heals."""


SPEC_PATH = f"{CONFIG_DIR}/spec.json"


API_KEY_PATH = f"{CONFIG_DIR}/api-key"
"""On the head only."""


VLLM_CONFIG_ROOT = f"{CONFIG_DIR}/vllm"


STATE_PATH = "/run/clusterctl/state.json"


REQUEST_PATH = "/run/clusterctl/request.json"
"""What SIGUSR1 asks the agent for: {"action": "drain" | "restart", "by": …, "drain_s": seconds to wait at most}."""


ANSWERS_AS = "clusterctl-agent"
"""The header `Server` of what an agent answers on the API's port while no server listens there (inside/unavailable.py).
"""


CACHE_DIR = "/var/cache/clusterctl"
"""Where the cluster's cache volume is mounted: what was compiled in one start, for the next one (inside/cache.py)."""


def cache_name(cluster: str) -> str:
    """Name of a cluster's volume of compiled code, the same on every node."""
    return f"{cluster}-cache"


def container_name(cluster: str) -> str:
    """Name of a cluster's container, the same on every node."""
    return f"{cluster}-node"
