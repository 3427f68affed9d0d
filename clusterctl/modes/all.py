"""Every way of serving, and which one an inventory means."""

from __future__ import annotations

from collections.abc import Mapping

from clusterctl.inventory.model import Inventory
from clusterctl.inventory.raw import dig, items
from clusterctl.modes.mode import Mode
from clusterctl.modes.mp import MP
from clusterctl.modes.ports import PortField, ports_on
from clusterctl.modes.ray import RAY

MODES: tuple[Mode, ...] = (RAY, MP)
"""In the order in which they are preferred on several nodes."""

BY_NAME: Mapping[str, Mode] = {mode.name: mode for mode in MODES}

STEPS: Mapping[str, str] = {phase: words for mode in MODES for phase, words in mode.steps.items()}
"""Phase of the head's agent -> what goes on. An agent names phases after its processes, so they need no mode."""

SECRET_PATHS = tuple(path for mode in MODES for path in mode.secret_paths)
"""Where a container may hold a secret of its mode's, whichever that is."""


def possible_modes(inventory: Inventory) -> tuple[Mode, ...]:
    """The modes that an inventory may mean, as far as it tells: with `executor: auto` and several nodes what runs
    decides, or what the image holds (deployment/executor.py)."""
    if inventory.serve.executor != "auto":
        return (BY_NAME[inventory.serve.executor],)
    if len(inventory.nodes) == 1:
        return (MP,)
    return MODES


def mode_of(inventory: Inventory) -> Mode:
    """The mode that an inventory means; where that is not decided, the one that is preferred."""
    return possible_modes(inventory)[0]


def with_executor(inventory: Inventory, name: str) -> Inventory:
    """The inventory with its executor decided."""
    return inventory.model_copy(update={"serve": inventory.serve.model_copy(update={"executor": name})})


def listens_of(inventory: Inventory) -> tuple[PortField, ...]:
    """Every port that will be listened on, or may be where the mode is not decided."""
    fields = (field for mode in possible_modes(inventory) for field in mode.listens_for(inventory))
    return tuple(dict.fromkeys(fields))


def ports_of(inventory: Inventory, node: str) -> Mapping[int, str]:
    """The fixed ones of them at a node, each with its field."""
    return ports_on(listens_of(inventory), inventory, node)


def modes_of_data(data: object) -> tuple[Mode, ...]:
    """The same as `possible_modes` for an inventory that was not validated yet: what it says wrongly is told by the
    rules of all of them."""
    asked = BY_NAME.get(str(dig(data, "serve", "executor")))
    if asked is not None:
        return (asked,)
    return (MP,) if len(items(dig(data, "nodes"))) == 1 else MODES
