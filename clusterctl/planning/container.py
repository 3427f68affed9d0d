"""The one container of each node, as typed data with the reason beside each flag. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from clusterctl import __version__
from clusterctl.agent.labels import (
    LABEL_CLUSTER,
    LABEL_EXECUTOR,
    LABEL_GPUS,
    LABEL_NODE,
    LABEL_ROLE,
    LABEL_SPEC,
    LABEL_VERSION,
)
from clusterctl.agent.paths import AGENT_PATH, SOURCES, container_name
from clusterctl.inventory.model import Inventory
from clusterctl.modes.all import mode_of
from clusterctl.modes.place import Deployment, Place
from clusterctl.planning.cache import cache_binds
from clusterctl.planning.files import SERVER_FILES, SETTINGS_FILES, environment, rendered_files
from clusterctl.planning.flags import host_config
from clusterctl.secrets.masking import recorded

STOP_TIMEOUT_S = 900
"""What the engine waits for a container that is stopped. The agent keeps the inventory's own, shorter deadlines, which
can be changed while it runs; this one cannot."""


LIVE_FILES = frozenset({*SERVER_FILES, *SETTINGS_FILES})


def restart_policy(inventory: Inventory) -> str:
    """The engine's restart policy for containers of a cluster that has served; until `up` has seen a completion it is
    `no` (agent.py, "Healing").

    `always`, not `unless-stopped`: an engine that was killed stops the containers that it finds running when it comes
    back, notes them as stopped by a person, and leaves them so (Docker 20.10, seen in the lab, to 29, in its code:
    daemon.restore, shutdownContainer, killWithSignal; moby/moby#41302). A container that a person stopped stays
    stopped either way, with `always` until the engine starts again.
    """
    return "always" if inventory.supervise == "on" else "no"


@dataclass(frozen=True)
class ContainerSpec:
    """What a container is started with: the API's two bodies and the files in it. Secrets are not part of it."""

    name: str
    image_id: str
    """The ID behind the image's name at the time of planning: another image behind the same name is a change."""
    config: Mapping[str, Any]
    host_config: Mapping[str, Any]
    files: Mapping[str, str]
    executor: str
    """For a label. Another one is another agent.json, so no part of the hash."""

    def values(self) -> Mapping[str, Any]:
        """Everything that decides the container, as plain JSON values: what `plan` compares and shows."""
        return {
            "image_id": self.image_id,
            "config": recorded(self.config),
            "host_config": json.loads(json.dumps(self.host_config)),
            "files": {path: hashlib.sha256(content.encode()).hexdigest() for path, content in self.files.items()},
            "file_contents": {path: text for path, text in self.files.items() if path not in SOURCES},
        }

    @property
    def live_files(self) -> Mapping[str, str]:
        """The files that can be replaced while the container runs."""
        return {path: text for path, text in self.files.items() if path in LIVE_FILES}

    @cached_property
    def hash(self) -> str:
        """Hash of what can only be changed by replacing the container; the same hash, the same container."""
        values = self.values()
        fixed = {path: digest for path, digest in values["files"].items() if path not in LIVE_FILES}
        decisive = {key: values[key] for key in ("image_id", "config", "host_config")} | {"files": fixed}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def labels(self, cluster: str, place: Place) -> dict[str, str]:
        """What the container is found by. Nothing about it is kept anywhere else."""
        return {
            LABEL_CLUSTER: cluster,
            LABEL_ROLE: place.role,
            LABEL_NODE: place.name,
            LABEL_SPEC: self.hash,
            LABEL_VERSION: __version__,
            LABEL_EXECUTOR: self.executor,
            **({LABEL_GPUS: ",".join(place.gpus.uuids)} if place.gpus is not None and place.gpus.uuids else {}),
        }


def container_specs(deployment: Deployment) -> Mapping[str, ContainerSpec]:
    """Node name → its container, in inventory order."""
    return {name: _spec(deployment, place) for name, place in deployment.places.items()}


def _host_config(inventory: Inventory, place: Place) -> Mapping[str, Any]:
    """The flags that every container of the image has, and the cache, which only the serving one has."""
    flags = host_config(inventory, gpus=place.gpus, infiniband=place.infiniband)
    return {**flags, "binds": [*flags["binds"], *cache_binds(inventory)]}


def _spec(deployment: Deployment, place: Place) -> ContainerSpec:
    inventory = deployment.inventory
    config = {
        "image": inventory.container.image,
        # The image's own entry point is `vllm serve` (vllm-ray-facts): every other use needs another one.
        "entrypoint": ["python3", AGENT_PATH],
        "command": [],
        "environment": dict(environment(inventory, deployment, place)),
        "stop_timeout": STOP_TIMEOUT_S,
    }
    return ContainerSpec(
        name=container_name(inventory.cluster),
        image_id=place.image_id,
        config=config,
        host_config=_host_config(inventory, place),
        files=rendered_files(deployment, place),
        executor=mode_of(inventory).name,
    )
