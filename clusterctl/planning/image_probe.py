"""The container that asks an image what it is: the serving container's flags, another entry point. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import docker.types

from clusterctl.facts.model import ClusterFacts, ImageFacts, Unknown
from clusterctl.inventory.layout import resolve_layout
from clusterctl.inventory.model import Inventory
from clusterctl.planning.container import host_config
from clusterctl.planning.deployment import accelerators_per_node
from clusterctl.planning.probe import probe_labels
from clusterctl.planning.rdma import devices_passed

REPORT_PATH = "/opt/clusterctl/report.py"
REPORT_DEADLINE_S = 60
"""Seconds for the report: 1 s on an idle machine, more on a cold image whose files are read for the first time."""
DEEP_DEADLINE_S = 600
"""Seconds with ModelRegistry in it: importing vLLM took 15 s on two cores, 40 s on busy ones."""


@dataclass(frozen=True)
class ImageProbe:
    """The API's two bodies, and the number of GPUs that they ask for."""

    config: Mapping[str, Any]
    host_config: Mapping[str, Any]
    gpus: int

    @property
    def without_gpus(self) -> ImageProbe:
        """The same without GPUs: whether it is they that keep the container from starting."""
        body = {key: value for key, value in self.host_config.items() if key != "device_requests"}
        return ImageProbe(self.config, body, 0)

    @property
    def without_volumes(self) -> ImageProbe:
        """The same without the operator's own volumes, of which one may not be there yet."""
        model_path = self.config["command"][1]
        mounts = [mount for mount in self.host_config["mounts"] if mount["Target"] == model_path]
        return ImageProbe(self.config, {**self.host_config, "mounts": mounts}, self.gpus)


def gpus_wanted(inventory: Inventory, facts: ClusterFacts) -> int:
    """GPUs that the serving container asks for on each node; 0 where there are none to ask for."""
    if inventory.accelerator.kind != "nvidia":
        return 0
    per_node = accelerators_per_node(inventory, facts)
    serve = inventory.serve
    try:
        layout = resolve_layout(len(inventory.nodes), per_node, serve.tensor_parallel, serve.pipeline_parallel)
    except ValueError:
        return per_node  # a finding of its own
    return layout.gpus_per_node


def image_probe(inventory: Inventory, facts: ClusterFacts, node: str, *, ask_registry: bool = False) -> ImageProbe:
    """What to start on that node, whose image and containers were read."""
    found = facts.nodes[node]
    assert isinstance(found.image, ImageFacts)  # noqa: S101 (the caller chose the nodes by it)
    gpus = gpus_wanted(inventory, facts)
    body = dict(host_config(inventory, gpus=gpus, infiniband=devices_passed(inventory.rdma, found)))
    # The engine makes the directory of a bind mount that is not there; of this kind of mount it refuses to, and
    # looking must change nothing.
    model_there = not isinstance(found.model, Unknown | None)
    body["mounts"] = [_mount(bind) for bind in body.pop("binds")[0 if model_there else 1 :]]
    if not gpus:
        body.pop("device_requests", None)  # zero would be all of them
    own = next(each for each in inventory.nodes if each.name == node)
    deadline_s = DEEP_DEADLINE_S if ask_registry else REPORT_DEADLINE_S
    config = {
        "image": found.image.id,
        "entrypoint": ["python3", REPORT_PATH],
        "command": [str(deadline_s), inventory.model.path, *(["deep"] if ask_registry else [])],
        # Without what clusterctl derives for each node: the rest is what must be alike.
        "environment": {**inventory.container.env, **own.env},
        "labels": dict(probe_labels(inventory.cluster, node)),
    }
    return ImageProbe(config, body, gpus)


def _mount(bind: str) -> docker.types.Mount:
    source, target, *mode = bind.split(":")
    return docker.types.Mount(target=target, source=source, type="bind", read_only=mode == ["ro"])
