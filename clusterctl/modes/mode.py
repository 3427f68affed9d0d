"""What a way of serving decides: one protocol, answered by one file for each way (ray.py), chosen in all.py.

Pure. The answers about processes, gate and watches are data: they travel to the node in agent.json, and the agent
knows them by kind (agent/inside/: gates.py, watches.py, children.py), not the mode by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from clusterctl.agent.state import AgentState
from clusterctl.inventory.layout import Layout
from clusterctl.inventory.model import Inventory
from clusterctl.inventory.rules.all import Rule
from clusterctl.modes.place import Deployment, Place
from clusterctl.modes.ports import PortField


@dataclass(frozen=True)
class Stage:
    """One pipeline stage and the nodes that hold its tensor-parallel ranks (one, unless TP spans nodes)."""

    pipeline_rank: int
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class EnginePlace:
    """One engine of the server (one, without data parallel) and the nodes that hold its ranks."""

    rank: int
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """What is known of the image when a mode is asked whether it can serve; None where it is not known."""

    lacks: frozenset[str] | None = None
    """Modules of Python that modes ask for and the image was found not to have."""
    experts: int | None = None
    """Of the model; 0: it has none."""


@dataclass(frozen=True)
class Refusal:
    """Why a mode cannot serve what is asked for, and the nearest combination that it can."""

    reason: str
    instead: str


@dataclass(frozen=True)
class Secret:
    """A token that the mode's processes share: a file of the operator's, or a new random one for each start."""

    field: str
    """The inventory's field for the file, for messages."""
    file: Path | None


@dataclass(frozen=True)
class Process:
    """One process that the node's agent runs. A process that is started before the gate names the phase it begins."""

    name: str
    program: str
    """What runs it: a row of PROGRAMS (agent/inside/children.py)."""
    argv: tuple[str, ...]
    """Of the process that waits for the gate it travels in server.json, which is read anew at each of its starts."""
    gated: bool
    """Whether it waits for the gate. One process a node at most: the server, or this node's part of it."""
    alone: bool = False
    """Whether it can be started again by itself when it fails; else the node begins anew."""
    after: tuple[str, int] | None = None
    """Address and port that must answer before it begins."""
    stop_s: float | None = None
    """Seconds for it to end by itself; None: timeouts.stop_s."""

    def to_json(self) -> dict[str, Any]:
        """As agent.json has it."""
        return {key: value for key, value in asdict(self).items() if key != "argv" or not self.gated}


@dataclass(frozen=True)
class Gate:
    """What must be true before the server starts; this one: nothing. Others are subclasses, in the file of their mode,
    each with the kind that agent/inside/gates.py knows it by."""

    kind: ClassVar[str] = "none"

    def to_json(self) -> dict[str, Any]:
        """As agent.json has it."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Watch:
    """What is watched while a process runs. Subclasses have the kind that agent/inside/watches.py knows them by."""

    kind: ClassVar[str]

    process: str

    def to_json(self) -> dict[str, Any]:
        """As agent.json has it."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class ProcessLives(Watch):
    """The process does not end; `reason` is what its end is called (agent/reasons.py)."""

    kind: ClassVar[str] = "process"

    reason: str


@dataclass(frozen=True)
class Completion(Watch):
    """An engine of the server gives a token whenever it is asked for one."""

    kind: ClassVar[str] = "completion"

    engine: int
    engines: int | None = None
    """Of how many; None: there is never more than one."""

    def to_json(self) -> dict[str, Any]:
        """As agent.json has it."""
        return {key: value for key, value in super().to_json().items() if value is not None}


class Mode(Protocol):
    """A way to serve."""

    name: str
    """What `serve.executor` will call it."""
    owned: Mapping[str, str]
    """`vllm serve` options that it sets itself, beside those of every mode (inventory/owned.py) -> what to do instead
    of giving them."""
    owned_environment: frozenset[str]
    """Variables whose values are the mode's, whatever the operator says."""
    rules: tuple[Rule, ...]
    """The inventory's rules that are this mode's alone: which sizes are possible, which values its programs refuse."""
    listens: tuple[PortField, ...]
    """Every port that may be listened on, on any node, the API's among them."""
    secret_paths: tuple[str, ...]
    """Where its secrets lie in a container."""
    own_ports: str
    """Whose the ports of `listens` are, beside the API's: `Ray's ports`."""
    traffic: tuple[str, ...]
    """What passes between the nodes, by the names that people know."""
    counts_members: bool
    """Whether somebody counts nodes and their accelerators while it runs (`members`)."""
    steps: Mapping[str, str]
    """Phase of the head's agent before its server loads -> what goes on, for the person who waits."""
    counted: Mapping[str, str]
    """Event of the agent's that counts nodes (`joined` of `expected`) -> what is counted."""

    def refuses(self, inventory: Inventory, seen: Seen) -> Iterator[Refusal]:
        """Why it cannot serve this."""

    def listens_for(self, inventory: Inventory) -> tuple[PortField, ...]:
        """Those of `listens` that this inventory needs."""

    def world(self, inventory: Inventory, accelerators: int) -> Layout:
        """The sizes, with so many accelerators on each node. Raises ValueError when they do not fit."""

    def ports(self, inventory: Inventory, node: str) -> Mapping[int, str]:
        """Fixed ports that are listened on at a node -> the inventory's field for each. Ranges are in `listens`."""

    def secrets(self, inventory: Inventory) -> Mapping[str, Secret]:
        """Path in every node's container -> the secret that it holds."""

    def environment(self, deployment: Deployment, place: Place) -> Mapping[str, str]:
        """Variables of a node's container; the operator's own values win, but for `owned_environment`."""

    def files(self, deployment: Deployment, place: Place) -> Mapping[str, str]:
        """Path -> content of files that only this mode needs in a node's container."""

    def server(self, deployment: Deployment, place: Place) -> Mapping[str, Any]:
        """What vllm.yaml holds on a node beside the options of every mode; empty: this node runs no server."""

    def processes(self, deployment: Deployment, place: Place) -> tuple[Process, ...]:
        """What a node runs, in the order of its start."""

    def stop_order(self, deployment: Deployment, place: Place) -> tuple[str, ...]:
        """The processes' names in the order in which they end."""

    def gate(self, deployment: Deployment, place: Place) -> Gate:
        """What opens the way for the node's server."""

    def watches(self, deployment: Deployment, place: Place) -> tuple[Watch, ...]:
        """What a node's agent watches."""

    def engines(self, deployment: Deployment) -> tuple[EnginePlace, ...]:
        """The server's engines, as they are planned."""

    def held(self, states: Mapping[str, AgentState], nodes: Mapping[str, str]) -> Mapping[int, tuple[str, ...]]:
        """Rank of an engine -> the nodes on which its workers are seen; of those that nobody sees, the plan counts.
        `states` and `nodes`: see `stages`."""

    def members(self, state: AgentState) -> Mapping[str, float] | None:
        """Nodes that the head's agent has counted, from what it reports: address -> accelerators; None: it has not."""

    def stages(
        self, states: Mapping[str, AgentState], nodes: Mapping[str, str], deployment: Deployment | None = None
    ) -> tuple[Stage, ...]:
        """Who holds which pipeline stage. `deployment`: what is declared, where findings let it be resolved; `states`:
        node -> what its agent reports; `nodes`: address -> node."""
