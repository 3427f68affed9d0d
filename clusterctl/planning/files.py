"""The files in a node's container: the agent, its configuration, the server's, and the secrets."""

from __future__ import annotations

from collections.abc import Mapping

from clusterctl.agent import paths
from clusterctl.deployment.environment import network_environment
from clusterctl.inventory.model import Inventory
from clusterctl.modes.all import mode_of
from clusterctl.modes.place import Deployment, Place
from clusterctl.planning.cache import cache_place
from clusterctl.planning.server import server_files
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
    mode = mode_of(deployment.inventory)
    return {
        **{path: source.read_text(encoding="utf-8") for path, source in paths.SOURCES.items()},
        paths.AGENT_CONFIG_PATH: _agent_config(deployment, place),
        paths.SETTINGS_PATH: _settings(deployment.inventory, place),
        **server_files(deployment, place),
        **mode.files(deployment, place),
    }


def _agent_config(deployment: Deployment, place: Place) -> str:
    mode = mode_of(deployment.inventory)
    return render(
        "agent.json.j2",
        node=place.name,
        role=place.role,
        private_shm=deployment.inventory.container.ipc == "private",
        cache=cache_place(deployment.inventory, place.image_id),
        processes=[process.to_json() for process in mode.processes(deployment, place)],
        gate=mode.gate(deployment, place).to_json(),
        watches=[watch.to_json() for watch in mode.watches(deployment, place)],
        stop=mode.stop_order(deployment, place),
    )


def _settings(inventory: Inventory, place: Place) -> str:
    return render(
        "settings.json.j2",
        supervise=inventory.supervise == "on",
        timeouts=inventory.timeouts,
        max_restarts=MAX_RESTARTS,
        cache_max_bytes=inventory.container.cache_max_bytes,
        metrics={"host": str(place.address), "port": inventory.metrics_port} if inventory.metrics_port else None,
    )


def environment(inventory: Inventory, deployment: Deployment, place: Place) -> Mapping[str, str]:
    """The container's environment: what may be overridden, the operator's, the node's, then what clusterctl derives,
    which wins.

    Set on EVERY node: vLLM copies the head's environment to workers that lack a value (vllm-ray-facts, surprise 4).
    """
    node = next(node for node in inventory.nodes if node.name == place.name)
    mode = mode_of(inventory)
    of_mode = mode.environment(deployment, place)
    return {
        "PYTHONUNBUFFERED": "1",
        "VLLM_NO_USAGE_STATS": "1",
        **of_mode,
        **inventory.container.env,
        **node.env,
        **network_environment(inventory, place.name, place.address, place.interfaces, place.hcas),
        **{name: value for name, value in of_mode.items() if name in mode.owned_environment},
    }
