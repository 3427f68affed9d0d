"""What carries the traffic between the ranks: what NCCL's own lines in the containers' logs prove, and no more."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from clusterctl.agent.paths import container_name
from clusterctl.errors import ClusterctlError
from clusterctl.hosts.engine.lines import Lines
from clusterctl.hosts.host import Host, Hosts
from clusterctl.inventory.model import Inventory
from clusterctl.modes.engines import spans_nodes
from clusterctl.records.verification import Shape, Transport
from clusterctl.signatures import nccl

READ_BYTES = 64 * 1024 * 1024
"""Of a node's log, from its start on: NCCL says what it uses when the ranks meet."""
READ_S = 20.0


def seen_transport(hosts: Hosts, inventory: Inventory, shape: Shape) -> Transport:
    """From the logs of all nodes that were reached. Reads only."""
    name = container_name(inventory.cluster)
    found = hosts.each(lambda host: nccl.transport(_nccl_lines(host, name)))
    return concluded(inventory, shape, found.values, {node: error.message for node, error in found.errors.items()})


def concluded(
    inventory: Inventory, shape: Shape, seen: Mapping[str, nccl.Transport], unread: Mapping[str, str]
) -> Transport:
    """What the lines prove. Pure."""
    channels = {node: each.channels for node, each in seen.items() if each.channels}
    if channels:
        said = "; ".join(f"{node}: {_channels(seen[node])}" for node in channels)
        networks = tuple(sorted({network for each in channels.values() for network in each}))
        return Transport(True, f"NCCL between nodes: {said}", networks)
    crosses = spans_nodes(inventory) or (inventory.serve.expert_parallel and len(inventory.nodes) > 1)
    local = {node: each.local for node, each in seen.items() if each.local}
    if local and not crosses:
        said = "; ".join(f"{node}: {_counted(paths)}" for node, paths in local.items())
        return Transport(True, f"NCCL inside each node, nothing between nodes: {said}")
    if not crosses and shape.tensor_parallel == shape.pipeline_parallel == 1:
        return Transport(False, "nothing to prove: each engine is one rank, which exchanges nothing")
    if inventory.accelerator.kind == "cpu":
        return Transport(False, "not proven: ranks on CPUs exchange over Gloo, which logs nothing about its path")
    unreadable = f" (log not read on {', '.join(unread)})" if unread else ""
    return Transport(
        False,
        f"not proven: the logs have no lines of NCCL's about its channels{unreadable}. `container.env: "
        "{NCCL_DEBUG: INFO}` and a restart make it log them; before a start, clusterctl check --nccl tries it",
    )


def _channels(seen: nccl.Transport) -> str:
    direct = f", {seen.gdrdma} of them with GPUDirect RDMA" if seen.gdrdma else ""
    return f"{_counted(seen.channels)}{direct}"


def _counted(channels: Mapping[str, int]) -> str:
    return ", ".join(f"{count} channels via {path}" for path, count in channels.items())


def _nccl_lines(host: Host, container: str) -> Iterator[str]:
    """Lines of NCCL's from the start of the log; as far as they come in time."""
    lines, deadline, left = Lines(), time.monotonic() + READ_S, READ_BYTES
    try:
        for chunk in host.engine.logs(container, follow=False):
            yield from (line for line in lines.feed(chunk) if "NCCL" in line)
            left -= len(chunk.data)
            if left < 0 or time.monotonic() > deadline:
                return
    except ClusterctlError as error:
        raise ClusterctlError(f"its log: {error.message}", hint=error.hint) from error
    yield from (line for line in lines.end() if "NCCL" in line)
