"""What the all-reduce of `check --nccl` is started with: the serving container, another entry point. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from clusterctl.agent.labels import LABEL_ROLE, ROLE_PROBE
from clusterctl.deployment.resolve import resolve
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.collective import Collective, NodeRun, read_run
from clusterctl.facts.fact import Unknown
from clusterctl.hosts.engine.engine import FileInContainer
from clusterctl.hosts.host import Host, Hosts
from clusterctl.inventory.model import Inventory
from clusterctl.modes.all import listens_of
from clusterctl.modes.place import Deployment
from clusterctl.modes.ports import ranges_of, reached_ports
from clusterctl.planning.container import container_specs
from clusterctl.preflight.container import probe_labels, probe_name
from clusterctl.preflight.inside import COLLECTIVE_SOURCE

MARGIN_S = 30.0
"""Seconds beyond the collective's own deadline, for the engine to start and remove the container."""


def gather_collective(hosts: Hosts, inventory: Inventory, facts: ClusterFacts) -> Collective | Unknown:
    """Run it on all nodes at once; about 10 s, at most DEADLINE_S. Nothing of it stays."""
    if reason := _not_now(facts):
        return Unknown(reason)
    try:
        deployment = resolve(inventory, facts)
    except ValueError as error:
        return Unknown(str(error))
    plan = collective_probe(deployment, facts)

    def run(host: Host) -> NodeRun:
        node = plan.nodes[host.name]
        files = [FileInContainer(COLLECTIVE_PATH, COLLECTIVE_SOURCE.read_bytes()), node.file]
        name = probe_name(inventory.cluster, "collective", hosts.run)
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


COLLECTIVE_PATH = "/opt/clusterctl/collective.py"


COLLECTIVE_CONFIG_PATH = "/etc/clusterctl/collective.json"


JOIN_S = 60
"""For all ranks to import torch and meet: 5 s in the lab, more on cold images."""


DEADLINE_S = 120
"""For everything. NCCL's own first connections of 64 ranks take seconds."""


NCCL_BYTES, NCCL_ITERATIONS = 256 * 1024 * 1024, 10
"""Large enough that bandwidth decides, not latency; vLLM reserves more than that for activations anyway."""


GLOO_BYTES, GLOO_ITERATIONS = 4 * 1024 * 1024, 3
"""Gloo is for the path, not for speed."""


@dataclass(frozen=True)
class NodeProbe:
    """One node's container: the API's two bodies, and its configuration."""

    config: Mapping[str, Any]
    host_config: Mapping[str, Any]
    file: FileInContainer


@dataclass(frozen=True)
class CollectiveProbe:
    """The containers of all nodes."""

    backend: Literal["nccl", "gloo"]
    bytes: int
    nodes: Mapping[str, NodeProbe]


def collective_probe(deployment: Deployment, facts: ClusterFacts) -> CollectiveProbe:
    """The serving containers' images, flags and environment, with NCCL told to say what it does.

    RCCL is called `nccl` in torch, so `amd` takes the same way.
    """
    on_cpu = deployment.inventory.accelerator.kind == "cpu"
    size, iterations = (GLOO_BYTES, GLOO_ITERATIONS) if on_cpu else (NCCL_BYTES, NCCL_ITERATIONS)
    backend: Literal["nccl", "gloo"] = "gloo" if on_cpu else "nccl"
    per_node = deployment.layout.gpus_per_node
    common = {
        "ranks": per_node,
        "world": per_node * len(deployment.places),
        "backend": backend,
        "master_address": str(deployment.head.address),
        "master_port": free_port(deployment, facts),
        "bytes": size,
        "iterations": iterations,
        "join_s": JOIN_S,
        "deadline_s": DEADLINE_S,
    }
    nodes = {}
    for index, (name, spec) in enumerate(container_specs(deployment).items()):
        config = {
            **spec.config,
            "entrypoint": ["python3", COLLECTIVE_PATH],
            "environment": _environment(spec.config["environment"]),
            "labels": dict(probe_labels(deployment.inventory.cluster, name)),
        }
        content = json.dumps({**common, "first_rank": index * per_node}).encode()
        nodes[name] = NodeProbe(config, spec.host_config, FileInContainer(COLLECTIVE_CONFIG_PATH, content))
    return CollectiveProbe(backend, size, nodes)


def _environment(serving: Mapping[str, str]) -> Mapping[str, str]:
    """The serving environment, except where NCCL's lines would be fewer or would go to a file."""
    kept = {name: value for name, value in serving.items() if name not in ("NCCL_DEBUG_FILE", "NCCL_DEBUG_SUBSYS")}
    return {**kept, "NCCL_DEBUG": "INFO"}


def free_port(deployment: Deployment, facts: ClusterFacts) -> int:
    """A port of the head's that the other nodes reach and nothing listens on: a firewall that lets the cluster through
    lets it through, too. The last of a range, where there is one: those are taken from its beginning."""
    inventory, head = deployment.inventory, deployment.head.name
    listens = listens_of(inventory)
    usable = [port for first, last in ranges_of(listens, inventory) for port in range(last, first - 1, -1)]
    usable = usable or list(reached_ports(listens, inventory, head)) or [inventory.mp.ports.master]
    listeners = facts.nodes[head].listeners
    taken = {listener.port for listener in listeners} if isinstance(listeners, tuple) else set()
    return next((port for port in usable if port not in taken), usable[0])
