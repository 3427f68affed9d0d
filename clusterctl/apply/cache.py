"""The volume of compiled code on a node: made before the container that has it, removed when somebody asks for that."""

from __future__ import annotations

from clusterctl.agent.labels import LABEL_CLUSTER
from clusterctl.agent.paths import cache_name
from clusterctl.facts.engine import own_cache
from clusterctl.hosts.engine.engine import EngineError, Volume
from clusterctl.hosts.host import Host
from clusterctl.inventory.model import Inventory
from clusterctl.planning.cache import keeps_volume


def make_cache(host: Host, inventory: Inventory) -> None:
    """Make the cluster's volume on a node, unless it is there or none is wanted.

    Raises EngineError, also where a volume of its name is somebody else's: code is executed from what is in it.
    """
    if not keeps_volume(inventory):
        return
    volume = host.engine.volumes.make(cache_name(inventory.cluster), {LABEL_CLUSTER: inventory.cluster})
    if volume.labels.get(LABEL_CLUSTER) != inventory.cluster:
        error = EngineError(host.name, f"the volume {volume.name} is there, and was not made by clusterctl")
        error.hint = f"{host.engine.commands.remove_volume(volume.name)}, or container.cache: off in the inventory"
        raise error


def cache_volume(host: Host, inventory: Inventory) -> Volume | None:
    """The cluster's volume on a node; None where there is none of clusterctl's. Raises EngineError."""
    return own_cache(host, inventory.cluster)


def remove_cache(host: Host, inventory: Inventory) -> Volume | None:
    """Remove the cluster's volume from a node, and look whether it is gone. Returns what was removed.

    Raises EngineError, also where it is still there.
    """
    volume = cache_volume(host, inventory)
    if volume is None:
        return None
    host.engine.volumes.remove(volume.name)
    if cache_volume(host, inventory) is not None:
        raise EngineError(host.name, f"the volume {volume.name} is still there after it was removed")
    return volume
