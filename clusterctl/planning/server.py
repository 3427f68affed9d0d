"""The server's own configuration: vLLM's file of options."""

from __future__ import annotations

from clusterctl.agent import paths
from clusterctl.inventory.endpoint import tls_certfile
from clusterctl.modes.place import Deployment
from clusterctl.rendering import render
from clusterctl.signatures.start import KEEP


def server_config(deployment: Deployment) -> str:
    """What `vllm serve --config` reads."""
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


def server_file(deployment: Deployment) -> str:
    """What the agent must know to run the server: its command line, and which lines of its log to keep."""
    inventory = deployment.inventory
    return render(
        "server.json.j2",
        server_argv=["vllm", "serve", "--config", paths.SERVER_CONFIG_PATH],
        keep_lines=[pattern.pattern for pattern in KEEP],
        endpoint_host="127.0.0.1" if inventory.serve.host == "any" else _listen_host(deployment),
        endpoint_port=inventory.serve.port,
        tls=tls_certfile(inventory) is not None,
        api_key_file=paths.API_KEY_PATH if inventory.serve.api_key != "off" else None,
        served_name=inventory.served_name,
    )
