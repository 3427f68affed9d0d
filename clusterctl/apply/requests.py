"""Requests to an agent: a file in its container, and a signal."""

from __future__ import annotations

import json

from clusterctl.agent.paths import REQUEST_PATH
from clusterctl.hosts.engine.engine import FileInContainer
from clusterctl.hosts.host import Host


def ask_agent(host: Host, container: str, action: str, *, by: str, drain_s: float | None = None) -> None:
    """Leave a request for the head's agent and ring its bell. `action`: drain, restart. `drain_s`: how long running
    requests may take to end; 0 ends the server at once, None is what its settings say."""
    request = {"action": action, "by": by, **({"drain_s": drain_s} if drain_s is not None else {})}
    host.engine.put_files(container, [FileInContainer(REQUEST_PATH, json.dumps(request).encode())])
    host.engine.signal(container, "SIGUSR1")
