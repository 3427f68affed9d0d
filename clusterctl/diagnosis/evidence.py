"""What was collected, typed: of each container, of each node, of the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from clusterctl.agent.state import AgentState, agent_state
from clusterctl.findings.finding import Finding
from clusterctl.hosts.engine.commands import DOCKER, EngineCommands

SETTLE_S = 60
"""Seconds: a fault of the machine this long before a container started may still be why it fails."""


FIRST_START = frozenset({"ray", "gate", "loading"})
"""Phases of an agent through which a first start passes."""


@dataclass(frozen=True)
class ContainerEvidence:
    """One container of the cluster. Times are Unix seconds on the node's own clock."""

    name: str
    role: str
    status: str
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    """The engine's own reason for not starting it."""
    restarts: int = 0
    """How often the engine started it again."""
    started_t: float | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    """Its agent's last report (state.json)."""
    log: str = ""
    """What it wrote, each line with its time as the engine puts it."""
    hang: Mapping[str, Any] = field(default_factory=dict)
    """What its processes do, and whether completions come (agent/inside/hang.py); empty where that was not seen."""

    @cached_property
    def agent(self) -> AgentState:
        """The report, typed."""
        return agent_state(self.state)

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return self.status == "running"

    @property
    def serving(self) -> bool:
        """Whether its agent last saw a real completion."""
        return self.running and self.agent.serving and self.agent.ready


@dataclass(frozen=True)
class NodeEvidence:
    """What one node reported."""

    containers: tuple[ContainerEvidence, ...] | None = ()
    """None: could not be asked."""
    kernel: str = ""
    """dmesg, below its clock (kernel_log.CLOCK)."""
    ray: Mapping[str, str] = field(default_factory=dict)
    """Ray's session logs that hold errors: file → text."""
    now: float | None = None
    commands: EngineCommands = DOCKER
    """How its engine is spoken to, for fixes."""


@dataclass(frozen=True)
class Evidence:
    """What was seen of the whole cluster, secrets taken out. Nodes are in the inventory's order."""

    head: str
    nodes: Mapping[str, NodeEvidence]
    unreachable: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    """Node → why it was not reached, and what to do about it."""
    findings: tuple[Finding, ...] = ()
    error: str | None = None
    """The message of the command that failed."""

    @property
    def serving(self) -> bool:
        """Whether the head's agent last saw a real completion, and nothing is known to be missing."""
        node = self.nodes.get(self.head)
        return not self.hung and node is not None and any(container.serving for container in node.containers or ())

    @property
    def hung(self) -> bool:
        """Whether a completion was asked for just now, none came, and its engine did nothing."""
        return any(container.hang.get("hung") for node in self.nodes.values() for container in node.containers or ())

    @property
    def containers(self) -> bool:
        """Whether there is a container of the cluster anywhere."""
        return any(node.containers for node in self.nodes.values())

    @property
    def served_t(self) -> float | None:
        """When the head's agent last saw a completion, on its own clock; None: never."""
        node = self.nodes.get(self.head)
        times = [container.agent.canary_t for container in (node.containers if node else None) or ()]
        return max((t for t in times if t is not None), default=None)

    @property
    def survived_t(self) -> float | None:
        """What happened before this does not explain what is wrong now: the cluster served afterwards."""
        return None if self.served_t is None else self.served_t - SETTLE_S

    @property
    def starting(self) -> bool:
        """Whether everything runs and is in its first start, which takes its time."""
        states = [container for node in self.nodes.values() for container in node.containers or ()]
        return (
            bool(states)
            and all(container.running and not container.restarts for container in states)
            and all((container.agent.phase or "ray") in FIRST_START for container in states)
            and not any(container.agent.restarts for container in states)
        )


def situation(evidence: Evidence) -> str:
    """The state of the cluster in one sentence."""
    states = [c for node in evidence.nodes.values() for c in node.containers or ()]
    asked = [name for name, node in evidence.nodes.items() if node.containers is None]
    missing = f" ({', '.join([*evidence.unreachable, *asked])} not reachable)" if evidence.unreachable or asked else ""
    if not states:
        return f"down: no container of this cluster on any node that answered{missing}"
    if evidence.serving:
        return f"serving: the last request of the head's agent got a completion{missing}"
    if evidence.hung:
        return f"not serving: completions hang{missing}"
    running = sum(container.running for container in states)
    return f"not serving: {running} of {len(states)} containers running{missing}"
