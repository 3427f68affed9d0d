"""Serving without Ray, by vLLM's own multiprocessing: on one node, or rank r of N nodes, each with its part.

vLLM's own multi-node has no watchdog: a follower that is killed leaves its head running, /health at 200 and completions
hanging (vLLM 0.26 and 0.32, seen with GPUs and in the lab). So the agents are linked: exactly the declared nodes before
anything starts, and the end of any rank ends all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from clusterctl.agent import paths
from clusterctl.agent.state import AgentState
from clusterctl.inventory.layout import Layout, layout_of
from clusterctl.inventory.model import Inventory, MpPorts
from clusterctl.inventory.rules.all import Rule
from clusterctl.inventory.rules.serve import layout
from clusterctl.modes.engines import (
    api_servers,
    data_parallel,
    engine_places,
    nodes_by_rank,
    sizes,
    spans_nodes,
    stage_places,
)
from clusterctl.modes.mode import (
    Completion,
    EnginePlace,
    Gate,
    Process,
    ProcessLives,
    Refusal,
    Secret,
    Seen,
    Stage,
    Watch,
)
from clusterctl.modes.place import Deployment, Place
from clusterctl.modes.ports import OF_EVERY_MODE, PortField, ports_on

TOKEN_PATH = f"{paths.CONFIG_DIR}/gang-token"
"""What the agents of one gang know each other by."""


@dataclass(frozen=True)
class Members(Gate):
    """Exactly the declared nodes are on the link, each in standby. On the head."""

    kind: ClassVar[str] = "members"

    address: str
    """Where the head's agent listens."""
    port: int
    token_file: str
    expected: Mapping[str, str]
    """The others: name -> private address."""


@dataclass(frozen=True)
class Member(Gate):
    """The head says on the link that it is time. On every other node."""

    kind: ClassVar[str] = "member"

    name: str
    """This node's, by which the head knows it."""
    address: str
    """Where the head's agent listens."""
    port: int
    token_file: str


@dataclass(frozen=True)
class Link(Watch):
    """Every other node is on the link and its rank runs; on these, the head is there and its server runs."""

    kind: ClassVar[str] = "link"


def _port_fields() -> Iterator[PortField]:
    for name, everywhere in (("agent", False), ("master", True), ("data_parallel", False)):
        port = getattr(MpPorts(), name)
        yield PortField(("mp", "ports", name), (port, port), head_only=True, everywhere=everywhere)
    yield from OF_EVERY_MODE


LISTENS = tuple(_port_fields())
AGENT, MASTER, DATA_PARALLEL, *_ = LISTENS


class Mp:
    """The mode `mp`."""

    name = "mp"
    owned: Mapping[str, str] = {
        "master-port": "use mp.ports.master",
        "data-parallel-rpc-port": "use mp.ports.data_parallel",
    }
    owned_environment: frozenset[str] = frozenset()
    rules: tuple[Rule, ...] = (layout,)
    listens = LISTENS
    secret_paths: tuple[str, ...] = (TOKEN_PATH,)
    own_ports = "the ports of the ranks and their agents"
    traffic: tuple[str, ...] = ("NCCL", "Gloo", "TCPStore", "the agents' link")
    counts_members = False
    steps: Mapping[str, str] = {"gate": "linking the nodes"}
    counted: Mapping[str, str] = {"nodes": "nodes on the link"}

    def refuses(self, inventory: Inventory, seen: Seen) -> Iterator[Refusal]:
        """Nothing that every mode would not."""
        return iter(())

    def world(self, inventory: Inventory, accelerators: int) -> Layout:
        """Tensor parallel inside a node unless it is asked for, whole pipeline stages or whole engines on each."""
        return layout_of(inventory, accelerators)

    def listens_for(self, inventory: Inventory) -> tuple[PortField, ...]:
        """What the sizes need: no link on one node, no master where no engine spans nodes."""
        several, engines = len(inventory.nodes) > 1, inventory.serve.data_parallel
        needed = {AGENT: several, MASTER: several and engines == 1, DATA_PARALLEL: engines > 1}
        return tuple(field for field in self.listens if needed.get(field, field.is_on(inventory)))

    def ports(self, inventory: Inventory, node: str) -> Mapping[int, str]:
        """The link's and the ranks' meeting points on the head, the API's, and the metrics'."""
        return ports_on(self.listens_for(inventory), inventory, node)

    def secrets(self, inventory: Inventory) -> Mapping[str, Secret]:
        """The link's token, where there is a link: a new one for each start."""
        return {TOKEN_PATH: Secret("mp", None)} if len(inventory.nodes) > 1 else {}

    def environment(self, deployment: Deployment, place: Place) -> Mapping[str, str]:
        """Nothing of its own."""
        return {}

    def files(self, deployment: Deployment, place: Place) -> Mapping[str, str]:
        """Nothing of its own."""
        return {}

    def server(self, deployment: Deployment, place: Place) -> Mapping[str, Any]:
        """On every node its part of the server: of one engine that spans nodes a rank, else whole engines."""
        head = deployment.head
        meeting: dict[str, Any] = {}
        if spans_nodes(deployment.inventory):
            meeting = {
                "nnodes": len(deployment.places),
                "node-rank": nodes_by_rank(deployment.inventory).index(place.name),
                "master-addr": str(head.address),
                "master-port": deployment.inventory.mp.ports.master,
            }
        return {
            **sizes(deployment, "mp"),
            **meeting,
            **data_parallel(deployment, place),
            **(api_servers(deployment) if place.role == "head" else {"headless": True}),
        }

    def processes(self, deployment: Deployment, place: Place) -> tuple[Process, ...]:
        """The server, or this node's part of it."""
        argv = ("vllm", "serve", "--config", paths.SERVER_CONFIG_PATH)
        return (Process("server", "server", argv, gated=True, alone=True),)

    def stop_order(self, deployment: Deployment, place: Place) -> tuple[str, ...]:
        """There is one process."""
        return ("server",)

    def gate(self, deployment: Deployment, place: Place) -> Gate:
        """On one node nothing; else the link, from both its ends."""
        if len(deployment.places) == 1:
            return Gate()
        head, port = str(deployment.head.address), deployment.inventory.mp.ports.agent
        if place.role != "head":
            return Member(place.name, head, port, TOKEN_PATH)
        others = {name: str(each.address) for name, each in deployment.places.items() if each.role != "head"}
        return Members(head, port, TOKEN_PATH, others)

    def watches(self, deployment: Deployment, place: Place) -> tuple[Watch, ...]:
        """The process on every node, each engine from the head, and the link from both its ends."""
        link = (Link("server"),) if len(deployment.places) > 1 else ()
        if place.role != "head":
            return (ProcessLives("server", "rank-exited"), *link)
        engines = self.engines(deployment)
        completions = (Completion("server", engine.rank, len(engines)) for engine in engines)
        return (ProcessLives("server", "server-exited"), *completions, *link)

    def engines(self, deployment: Deployment) -> tuple[EnginePlace, ...]:
        """One over all nodes, or several that each lie on one."""
        return engine_places(deployment.inventory)

    def held(self, states: Mapping[str, AgentState], nodes: Mapping[str, str]) -> Mapping[int, tuple[str, ...]]:
        """They lie as planned: each node's options name its ranks."""
        return {}

    def members(self, state: AgentState) -> Mapping[str, float] | None:
        """Nobody counts accelerators here: agents are counted, by the gate."""
        return None

    def stages(
        self, states: Mapping[str, AgentState], nodes: Mapping[str, str], deployment: Deployment | None = None
    ) -> tuple[Stage, ...]:
        """By the ranks, which the plan gives out: as long as a server is there, they lie so."""
        serves = any(state.serving or state.ready for state in states.values())
        return stage_places(deployment) if deployment is not None and serves else ()


MP = Mp()
