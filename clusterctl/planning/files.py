"""The files in a node's container: the agent, its configuration, the server's, and the secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping

from clusterctl.agent import AGENT_SOURCE, CHILDREN_SOURCE, MIDDLEWARE_SOURCE, paths
from clusterctl.deployment.environment import network_environment
from clusterctl.inventory.model import Inventory
from clusterctl.modes.place import Deployment, Place
from clusterctl.modes.ray import not_carried, ray_argv
from clusterctl.planning.server import server_config, server_file
from clusterctl.rendering import render

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
        files[paths.SERVER_PATH] = server_file(deployment)
        files[paths.SERVER_CONFIG_PATH] = server_config(deployment)
        files[paths.NOT_CARRIED_PATH] = json.dumps(not_carried(deployment.inventory), indent=2)
    return files


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


def _settings(inventory: Inventory) -> str:
    return render(
        "settings.json.j2",
        supervise=inventory.supervise == "on",
        timeouts=inventory.timeouts,
        max_restarts=MAX_RESTARTS,
    )


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
