"""The files in a node's container: the agent, its configuration, the server's, and the secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from clusterctl import vllm_log
from clusterctl.agent import AGENT_SOURCE, CHILDREN_SOURCE, MIDDLEWARE_SOURCE
from clusterctl.inventory.model import Inventory
from clusterctl.planning import paths
from clusterctl.planning.deployment import Deployment, Place, tls_certfile
from clusterctl.planning.environment import network_environment
from clusterctl.planning.masking import SECRETS_IN_USE
from clusterctl.rendering import render
from clusterctl.secret_names import looks_secret

MAX_RESTARTS = 8
"""Failures in a row, without a minute of service between them, after which the agent gives up (with the back-off some
ten minutes of trying, and each try loads the model)."""

SERVER_FILES = (paths.SERVER_PATH, paths.SERVER_CONFIG_PATH)
"""Read at each start of the server: another content takes a restart of the server and nothing else."""
SETTINGS_FILES = (paths.SETTINGS_PATH,)
"""Read whenever a value is needed: another content takes effect by itself."""


def rendered_files(deployment: Deployment, place: Place) -> Mapping[str, str]:
    """Path → content of every file without a secret in it."""
    files = {
        paths.AGENT_PATH: AGENT_SOURCE.read_text(encoding="utf-8"),
        paths.CHILDREN_PATH: CHILDREN_SOURCE.read_text(encoding="utf-8"),
        paths.MIDDLEWARE_PATH: MIDDLEWARE_SOURCE.read_text(encoding="utf-8"),
        paths.AGENT_CONFIG_PATH: _agent_config(deployment, place),
        paths.SETTINGS_PATH: _settings(deployment.inventory),
    }
    if place.role == "head":
        files[paths.SERVER_PATH] = _server(deployment)
        files[paths.SERVER_CONFIG_PATH] = _server_config(deployment)
        files[paths.NOT_CARRIED_PATH] = json.dumps(not_carried(deployment.inventory), indent=2)
    return files


def _server_config(deployment: Deployment) -> str:
    inventory = deployment.inventory
    return render(
        "vllm.yaml.j2",
        model_path=inventory.model.path,
        served_name=inventory.served_name,
        host=_listen_host(deployment),
        port=inventory.serve.port,
        tensor_parallel=deployment.layout.tensor_parallel,
        pipeline_parallel=deployment.layout.pipeline_parallel,
        options=inventory.serve.options,
    )


def _listen_host(deployment: Deployment) -> str:
    host = deployment.inventory.serve.host
    if host == "private":
        return str(deployment.head.address)
    return "0.0.0.0" if host == "any" else str(host)  # noqa: S104 (only when the inventory says `any`)


def _agent_config(deployment: Deployment, place: Place) -> str:
    return render(
        "agent.json.j2",
        node=place.name,
        role=place.role,
        head_address=str(deployment.head.address),
        gcs_port=deployment.inventory.ray.ports.gcs,
        raylet_port=deployment.inventory.ray.ports.node_manager,
        private_shm=deployment.inventory.container.ipc == "private",
        ray_argv=ray_argv(deployment, place),
        expected_gpus={str(other.address): deployment.layout.gpus_per_node for other in deployment.places.values()},
    )


def _server(deployment: Deployment) -> str:
    inventory = deployment.inventory
    return render(
        "server.json.j2",
        server_argv=["vllm", "serve", "--config", paths.SERVER_CONFIG_PATH],
        keep_lines=[pattern.pattern for pattern in vllm_log.KEEP],
        endpoint_host="127.0.0.1" if inventory.serve.host == "any" else _listen_host(deployment),
        endpoint_port=inventory.serve.port,
        tls=tls_certfile(inventory) is not None,
        api_key_file=paths.API_KEY_PATH if inventory.serve.api_key != "off" else None,
        served_name=inventory.served_name,
    )


def _settings(inventory: Inventory) -> str:
    return render(
        "settings.json.j2",
        supervise=inventory.supervise == "on",
        timeouts=inventory.timeouts,
        max_restarts=MAX_RESTARTS,
    )


def not_carried(inventory: Inventory) -> list[str]:
    """Names of variables that vLLM must not copy from the server to its workers (F70).

    vLLM copies all of the server's environment to workers that lack a value (RayExecutorV2), or what begins with VLLM_,
    HF_ and the like (the older executor, data parallel), but for the names in this list: vllm/ray/ray_env.py and
    vllm/v1/executor/ray_env_utils.py of 0.32. It knows no patterns, so names are written out. What the inventory sets
    is on each node that it is meant for anyway.
    """
    asked = [*inventory.container.env, *(name for node in inventory.nodes for name in node.env)]
    return sorted({*SECRETS_IN_USE, *(name for name in asked if looks_secret(name))})


def ray_argv(deployment: Deployment, place: Place) -> Sequence[str]:
    """`ray start` for this node: explicit address, exactly its GPUs, every port pinned (Ray 2.60)."""
    inventory, ports = deployment.inventory, deployment.inventory.ray.ports
    common = [
        "--block",
        f"--node-ip-address={place.address}",
        f"--num-gpus={deployment.layout.gpus_per_node}",
        f"--node-manager-port={ports.node_manager}",
        f"--object-manager-port={ports.object_manager}",
        f"--runtime-env-agent-port={ports.runtime_env_agent}",
        f"--dashboard-agent-grpc-port={ports.dashboard_agent_grpc}",
        f"--dashboard-agent-listen-port={ports.dashboard_agent_http}",
        f"--metrics-export-port={ports.metrics_export}",
        f"--min-worker-port={ports.workers.first}",
        f"--max-worker-port={ports.workers.last}",
        "--disable-usage-stats",
    ]
    if inventory.ray.object_store_bytes is not None:
        common.append(f"--object-store-memory={inventory.ray.object_store_bytes}")
    if place.role == "worker":
        return ["start", f"--address={deployment.head.address}:{ports.gcs}", *common]
    # Head-only flags: on a worker they abort `ray start`. The dashboard is a job API (F65); the monitor
    # is the autoscaler's: there is nothing to scale.
    return ["start", "--head", f"--port={ports.gcs}", "--include-dashboard=false", "--no-monitor", *common]


def environment(inventory: Inventory, deployment: Deployment, place: Place) -> Mapping[str, str]:
    """The container's environment: the operator's, the node's, then what clusterctl derives, which wins.

    Set on EVERY node: vLLM copies the head's environment to workers that lack a value (vllm-ray-facts, surprise 4).
    """
    node = next(node for node in inventory.nodes if node.name == place.name)
    return {
        "PYTHONUNBUFFERED": "1",
        # Ray folds equal lines of several workers into one, and with them the one that says why a rank died.
        "RAY_DEDUP_LOGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        **inventory.container.env,
        **node.env,
        **network_environment(inventory, place.name, place.address, place.interface, place.hcas),
        "RAY_ADDRESS": f"{deployment.head.address}:{inventory.ray.ports.gcs}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": paths.RAY_TOKEN_PATH,
        "VLLM_CONFIG_ROOT": paths.VLLM_CONFIG_ROOT,  # where it looks for the list of `not_carried`
    }
