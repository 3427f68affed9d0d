"""A short all-reduce across the nodes, in the serving image with the serving flags: does it end, over what, how fast?

The container's side is agent/collective.py; what NCCL itself says is read by nccl_log.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from clusterctl import nccl_log
from clusterctl.agent import COLLECTIVE_SOURCE
from clusterctl.facts.model import ClusterFacts, Unknown
from clusterctl.hosts.engine import FileInContainer
from clusterctl.hosts.host import Host, Hosts
from clusterctl.planning.collective import COLLECTIVE_PATH, DEADLINE_S, collective_probe
from clusterctl.planning.container import LABEL_ROLE
from clusterctl.planning.deployment import Deployment, resolve
from clusterctl.planning.probe import ROLE_PROBE, probe_name
from clusterctl.vllm_log import Cause

MARGIN_S = 30.0
"""Seconds beyond the collective's own deadline, for the engine to start and remove the container."""
LINES_KEPT = 6
"""Lines of a node that failed that are shown."""


@dataclass(frozen=True)
class NodeRun:
    """What one node's ranks said."""

    joined: tuple[int, ...]
    reduced: Mapping[int, float]
    """Rank → seconds of one all-reduce, for ranks with the right sum."""
    errors: Mapping[int, str]
    """Rank → why it ended."""
    late: tuple[int, ...]
    """Ranks that were still waiting at the deadline."""
    transport: nccl_log.Transport
    causes: tuple[Cause, ...]
    lines: tuple[str, ...]
    """What the node said that warns, else its last lines."""


@dataclass(frozen=True)
class Collective:
    """The all-reduce as a whole."""

    backend: Literal["nccl", "gloo"]
    bytes: int
    ranks: Mapping[str, tuple[int, ...]]
    """Node → its ranks."""
    nodes: Mapping[str, NodeRun | Unknown]

    @property
    def world(self) -> int:
        """Number of ranks."""
        return sum(len(ranks) for ranks in self.ranks.values())

    @property
    def passed(self) -> bool:
        """Whether every rank has the right sum."""
        runs = self.nodes.values()
        return all(isinstance(run, NodeRun) for run in runs) and len(self._seconds()) == self.world

    @property
    def bus_gbyte_per_s(self) -> float | None:
        """Bus bandwidth in GB/s as nccl-tests defines it: bytes / time x 2(n-1)/n, of the slowest rank."""
        if not self.passed or self.world < 2:
            return None
        return self.bytes / max(self._seconds()) * 2 * (self.world - 1) / self.world / 1e9

    def _seconds(self) -> list[float]:
        return [seconds for run in self.nodes.values() if isinstance(run, NodeRun) for seconds in run.reduced.values()]


def gather_collective(hosts: Hosts, facts: ClusterFacts) -> Collective | Unknown:
    """Run it on all nodes at once; about 10 s, at most DEADLINE_S. Nothing of it stays."""
    if reason := _not_now(facts):
        return Unknown(reason)
    try:
        deployment = resolve(hosts.inventory, facts)
    except ValueError as error:
        return Unknown(str(error))
    plan = collective_probe(deployment, facts)

    def run(host: Host) -> NodeRun:
        node = plan.nodes[host.name]
        files = [FileInContainer(COLLECTIVE_PATH, COLLECTIVE_SOURCE.read_bytes()), node.file]
        name = probe_name(hosts.inventory.cluster, "collective", hosts.run)
        output = host.engine.run_once(name, node.config, node.host_config, files, deadline_s=DEADLINE_S + MARGIN_S)
        return read_run((output.stdout + b"\n" + output.stderr).decode(errors="replace").splitlines())

    outcomes = hosts.each(run, plan.nodes)
    nodes: dict[str, NodeRun | Unknown] = {name: Unknown(error.message) for name, error in outcomes.errors.items()}
    nodes |= outcomes.values
    return Collective(plan.backend, plan.bytes, _ranks(deployment), {name: nodes[name] for name in plan.nodes})


def _not_now(facts: ClusterFacts) -> str | None:
    """Why it must not or cannot run now. A running server's accelerators are not to be disturbed by a test."""
    if facts.unreachable:
        return f"not all nodes are reachable ({', '.join(facts.unreachable)})"
    for name, node in facts.nodes.items():
        containers = node.containers if isinstance(node.containers, tuple) else ()
        if any(each.running and each.labels.get(LABEL_ROLE) != ROLE_PROBE for each in containers):
            return f"the cluster runs on {name} and holds its accelerators: clusterctl down first"
    return None


def _ranks(deployment: Deployment) -> Mapping[str, tuple[int, ...]]:
    size = deployment.layout.gpus_per_node
    return {name: tuple(range(i * size, (i + 1) * size)) for i, name in enumerate(deployment.places)}


def read_run(lines: Sequence[str]) -> NodeRun:
    """One node's output."""
    events = list(_events(lines))
    return NodeRun(
        joined=tuple(event["rank"] for event in events if event["event"] == "joined"),
        reduced={event["rank"]: float(event["seconds"]) for event in events if event["event"] == "reduced"},
        errors={
            event["rank"]: event.get("error") or f"wrong sum: {event['smallest']}, not {event['expected']}"
            for event in events
            if event["event"] in ("error", "wrong")
        },
        late=tuple(rank for event in events if event["event"] == "deadline" for rank in event["alive"]),
        transport=nccl_log.transport(lines),
        causes=nccl_log.causes(lines),
        lines=nccl_log.said(lines, LINES_KEPT),
    )


def _events(lines: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The probe's own lines. Another library's line may stand before one of them, without a newline."""
    for line in lines:
        start = line.find('{"event": ')
        if start >= 0:
            try:
                yield json.loads(line[start:])
            except ValueError:
                continue
