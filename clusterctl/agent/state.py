"""What an agent reports in its state file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def ending(agent: Mapping[str, Any]) -> bool:
    """Whether a head's agent ends its server for good, or has: it waits for what comes next, and heals nothing."""
    return agent.get("phase") == "drained" or (agent.get("phase") == "draining" and agent.get("action") == "drain")


SERVER_PHASES = ("ray", "gate", "loading", "serving", "draining")
"""Phases of a head's agent in which its server runs or is still going to be started."""


GONE = ("drained", "stopping", "stopped", "failed")
"""Phases in which it no longer does."""
