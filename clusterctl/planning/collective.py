"""What the all-reduce of `check --nccl` is started with: the serving container, another entry point. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from clusterctl.facts.model import ClusterFacts
from clusterctl.hosts.engine import FileInContainer
from clusterctl.planning.container import container_specs
from clusterctl.planning.deployment import Deployment
from clusterctl.planning.probe import probe_labels

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
    """A port of Ray's worker range that nothing on the head listens on: a firewall that lets Ray through lets it
    through, too."""
    workers = deployment.inventory.ray.ports.workers
    listeners = facts.nodes[deployment.head.name].listeners
    taken = {listener.port for listener in listeners} if isinstance(listeners, tuple) else set()
    return next((port for port in range(workers.last, workers.first - 1, -1) if port not in taken), workers.last)
