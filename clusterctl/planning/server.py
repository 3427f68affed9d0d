"""The server's own configuration: vLLM's file of options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterctl.agent import paths
from clusterctl.inventory.endpoint import tls_certfile
from clusterctl.modes.all import mode_of
from clusterctl.modes.mode import Process
from clusterctl.modes.place import Deployment, Place
from clusterctl.rendering import render
from clusterctl.signatures.start import KEEP


def server_files(deployment: Deployment, place: Place) -> Mapping[str, str]:
    """Path -> content of what a node's server is started with; empty where the mode runs none."""
    mode = mode_of(deployment.inventory)
    options = mode.server(deployment, place)
    servers = [process for process in mode.processes(deployment, place) if process.gated]
    if not options or not servers:
        return {}
    return {
        paths.SERVER_PATH: _server_file(deployment, place, servers[0]),
        paths.SERVER_CONFIG_PATH: _server_config(deployment, options),
    }


def _server_config(deployment: Deployment, options: Mapping[str, Any]) -> str:
    """What `vllm serve --config` reads."""
    inventory = deployment.inventory
    return render(
        "vllm.yaml.j2",
        model_path=inventory.model.path,
        served_name=inventory.served_name,
        host=_listen_host(deployment),
        port=inventory.serve.port,
        options={**options, **inventory.serve.options},
    )


def _listen_host(deployment: Deployment) -> str:
    host = deployment.inventory.serve.host
    if host == "private":
        return str(deployment.head.address)
    return "0.0.0.0" if host == "any" else str(host)  # noqa: S104 (only when the inventory says `any`)


def _listen(deployment: Deployment) -> Mapping[str, Any]:
    """Where the API listens, and with which files: the agent answers there while no server does."""
    options = deployment.inventory.serve.options
    files = {"certfile": options.get("ssl-certfile"), "keyfile": options.get("ssl-keyfile")}
    return {"host": _listen_host(deployment), "port": deployment.inventory.serve.port, **files}


def _server_file(deployment: Deployment, place: Place, server: Process) -> str:
    """What the agent must know to run the server: its command line, and which lines of its log to keep."""
    inventory = deployment.inventory
    return render(
        "server.json.j2",
        server_argv=server.argv,
        keep_lines=[pattern.pattern for pattern in KEEP],
        endpoint_host="127.0.0.1" if inventory.serve.host == "any" else _listen_host(deployment),
        endpoint_port=inventory.serve.port,
        listen=_listen(deployment) if place.role == "head" else None,
        tls=tls_certfile(inventory) is not None,
        # Only the head is asked for anything.
        api_key_file=paths.API_KEY_PATH if inventory.serve.api_key != "off" and place.role == "head" else None,
        served_name=inventory.served_name,
    )
