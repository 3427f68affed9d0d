"""`status --watch`: the same question again and again, until interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NoReturn

from clusterctl.hosts.host import Hosts
from clusterctl.inventory.model import Inventory
from clusterctl.status.status import ClusterStatus, read_status


def watch_status(
    hosts: Hosts, inventory: Inventory, interval_s: float, show: Callable[[ClusterStatus], None]
) -> NoReturn:
    """Read the status every `interval_s` seconds, and show it.

    A node that did not answer is connected to again before the next turn: it may have been rebooted.
    """
    began = time.monotonic()
    while True:
        found = read_status(hosts, inventory)
        show(found)
        time.sleep(max(0.0, interval_s - (time.monotonic() - began)))
        began = time.monotonic()
        hosts.reconnect([node.name for node in found.nodes if not node.reachable])
