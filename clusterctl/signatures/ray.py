"""Ray's lines: nodes that do not join, lose each other, or are short of what was asked for. Ray 2.56 to 2.60."""

from __future__ import annotations

from clusterctl.signatures.signature import Signature

RAY: tuple[Signature, ...] = (
    Signature(
        r"No available node types can fulfill resource request.*'node:",
        name="node-address-mismatch",
        failure_mode="F2",
        meaning="vLLM asks for a node by an address that Ray does not know it by",
        fix="leave VLLM_HOST_IP to clusterctl; check the node's `address` in the inventory",
    ),
    Signature(
        r"bigger than a reserved number of \w*GPUs",
        name="tensor-parallel-exceeds-node",
        failure_mode="F3",
        meaning="tensor_parallel is larger than the accelerators of one node",
        fix="use a tensor_parallel that fits one node, and the rest as pipeline_parallel (clusterctl layout)",
        harmless=True,
    ),
    Signature(
        r"missed too many heartbeats",
        name="ray-heartbeats-missed",
        failure_mode="F35",
        meaning="the head no longer reaches a node's Ray: a port is blocked, or the node is gone",
        fix="clusterctl check (ports-blocked); open ray.ports in the inventory in both directions",
        consequence=True,
    ),
    Signature(
        r"Ray is trying to start at .* but is already running at",
        name="ray-already-running",
        failure_mode="F42",
        meaning="another Ray is running on the node",
        fix="clusterctl check names its process; end it, or use other ray.ports",
    ),
    Signature(
        r"Ray component .* is trying to use a port number",
        name="ray-ports-collide",
        failure_mode="F43",
        meaning="two of Ray's ports are the same, or one is in the workers' range",
        fix="leave ray.ports at their defaults, or use ports outside ray.ports.workers",
    ),
    Signature(
        r"Failed to connect to GCS within \d+ seconds",
        name="ray-head-lost",
        failure_mode="F62",
        meaning="the head's Ray died or is no longer reachable, which ends the workers too",
        fix="clusterctl logs --node HEAD; then clusterctl down and up: a head is never restarted alone",
        consequence=True,
    ),
    Signature(
        r"Waiting for creating a placement group of specs for|Cannot provide a placement group",
        name="ray-short-of-accelerators",
        failure_mode="F45",
        meaning="Ray has fewer free accelerators than the layout asks for",
        fix="clusterctl status; end whatever else uses this Ray, or correct accelerator.per_node",
        harmless=True,
    ),
    Signature(
        r"Workers \(tasks / actors\) killed due to memory pressure",
        name="ray-memory-pressure",
        failure_mode="F9",
        meaning="Ray ended workers because the node's memory was nearly full",
        fix="free memory on the node, or lower the load on it",
    ),
    Signature(
        r"Version mismatch: The cluster was started with",
        name="ray-differs",
        failure_mode="F41",
        meaning="Ray or Python differs between the nodes' images",
        fix="use the same image on every node",
    ),
    Signature(
        r"Token authentication is enabled but|AuthenticationError",
        name="ray-token-mismatch",
        failure_mode="F46",
        meaning="the nodes do not hold the same Ray token",
        fix="clusterctl down, then up: all nodes get a new token",
    ),
    Signature(
        r"Unable to connect to GCS|Failed to connect to GCS",
        name="ray-head-unreachable",
        failure_mode="F44",
        meaning="this node cannot reach the head's Ray at its private address",
        fix="check the firewall between the nodes (Ray's ports are ray.ports in the inventory)",
        consequence=True,
    ),
    Signature(
        r"timed out during startup",
        name="ray-wrong-address",
        failure_mode="F44",
        meaning="Ray did not come up within its 30 s: the address it was given is not this node's, or the machine is "
        "overloaded",
        fix="check network.cidr and the node's address; if they are right, look for what else uses the machine's CPUs",
        consequence=True,
    ),
)
"""The most specific first."""
