"""The agent: agent.py is sent into each node's container and is its first process. Nothing here imports it."""

from pathlib import Path

AGENT_SOURCE = Path(__file__).with_name("agent.py")
"""A container's first process: standard library only, run by the image's own python3 (3.11 or newer)."""

CHILDREN_SOURCE = Path(__file__).with_name("children.py")
"""What it starts, beside it in the container: Ray, the server, the probe of Ray's control store."""

MIDDLEWARE_SOURCE = Path(__file__).with_name("clusterctl_middleware.py")
"""A module of the server's: what it imports from beside children.py."""
