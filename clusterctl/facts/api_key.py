"""The API key that a running cluster holds, beside the one the inventory names."""

from __future__ import annotations

from dataclasses import dataclass, field

from clusterctl.agent.paths import API_KEY_PATH
from clusterctl.hosts.host import Host
from clusterctl.inventory.model import Inventory
from clusterctl.inventory.secret_files import api_key


@dataclass(frozen=True)
class ApiKeys:
    """The API's key before and after a run; None is no key."""

    held: bytes | None = field(repr=False)
    wanted: bytes | None = field(repr=False)
    generated: bool = False
    """Whether the wanted one was made by clusterctl, now or earlier."""

    @property
    def changes(self) -> bool:
        """Whether what holds a key is to hold another, or none."""
        return self.held is not None and self.wanted != self.held


def api_keys(inventory: Inventory, head: Host, container: str) -> ApiKeys:
    """The key that the head's container holds, and the one that it is to hold. Raises EngineError, UsageError."""
    held = held_api_key(head, container)
    generated = inventory.serve.api_key == "generated" and inventory.serve.api_key_file is None
    return ApiKeys(held, api_key(inventory, held), generated)


def held_api_key(head: Host, container: str) -> bytes | None:
    """The key in the head's container (name or ID), running or not; None when it has none (no file, an empty one), or
    does not exist. Raises EngineError.
    """
    content = head.engine.read_file(container, API_KEY_PATH)
    return (content or b"").strip() or None
