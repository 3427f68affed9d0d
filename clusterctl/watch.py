"""`status --watch`: the same answer again and again, until interrupted."""

from __future__ import annotations

import json
import time
from typing import NoReturn

import click

from clusterctl.hosts.host import Hosts
from clusterctl.status import read_status
from clusterctl.ui import render


def watch_status(hosts: Hosts, interval_s: float, *, as_json: bool) -> NoReturn:
    """Print the status every `interval_s` seconds: on a terminal in place, elsewhere one after the other; as JSON one
    object a line.

    A node that did not answer is connected to again before the next look: it may have been rebooted.
    """
    began = time.monotonic()
    while True:
        found = read_status(hosts)
        if as_json:
            click.echo(json.dumps(found.to_json(), default=str))
        else:
            click.clear()  # does nothing when stdout is no terminal
            click.echo(f"{time.strftime('%H:%M:%S')}  every {interval_s:g} s, Ctrl-C ends\n{render.status(found)}\n")
        time.sleep(max(0.0, interval_s - (time.monotonic() - began)))
        began = time.monotonic()
        hosts.reconnect([node.name for node in found.nodes if not node.reachable])
