"""Every way of serving, and which one an inventory means."""

from __future__ import annotations

from collections.abc import Mapping

from clusterctl.inventory.model import Inventory
from clusterctl.modes.mode import Mode
from clusterctl.modes.ray import RAY

MODES: tuple[Mode, ...] = (RAY,)
"""In the order in which they are preferred."""

STEPS: Mapping[str, str] = {phase: words for mode in MODES for phase, words in mode.steps.items()}
"""Phase of the head's agent -> what goes on. An agent names phases after its processes, so they need no mode."""

COUNTED: Mapping[str, str] = {event: words for mode in MODES for event, words in mode.counted.items()}
"""Event of an agent's that counts nodes -> what is counted."""

SECRET_PATHS = tuple(path for mode in MODES for path in mode.secret_paths)
"""Where a container may hold a secret of its mode's, whichever that is."""


def mode_of(_: Inventory) -> Mode:
    """The mode that an inventory means. There is one so far, and no field that asks for another."""
    return MODES[0]


def mode_of_data(_: object) -> Mode:
    """The same for an inventory that was not validated yet: what it says wrongly is told by the rules of the mode that
    comes nearest."""
    return MODES[0]
