"""The container that asks an image what it is: the serving container's flags, another entry point. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from clusterctl.agent import paths
from clusterctl.deployment.address import accelerators_per_node
from clusterctl.deployment.gpus import gpu_request
from clusterctl.deployment.rdma import devices_passed
from clusterctl.deployment.resolve import resolve
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.image_report import ImageReport, RunFailed, read_output
from clusterctl.facts.records import ImageFacts
from clusterctl.hosts.engine import bodies
from clusterctl.hosts.engine.engine import EngineError, FileInContainer
from clusterctl.hosts.host import Host, Hosts
from clusterctl.inventory.layout import layout_of
from clusterctl.inventory.model import Inventory
from clusterctl.planning.flags import host_config
from clusterctl.planning.server import server_files
from clusterctl.preflight.container import probe_labels, probe_name
from clusterctl.preflight.inside import REPORT_SOURCE

Answer = ImageReport | RunFailed | Unknown


MARGIN_S = 15
"""Seconds beyond the report's own deadline, for the engine to start and remove the container."""


def gather_images(
    hosts: Hosts, inventory: Inventory, facts: ClusterFacts, *, ask_registry: bool = False, one: bool = False
) -> Mapping[str, Answer]:
    """The image's report from every node that has the image, all at once; with `one` only from the first of them.

    With `ask_registry` one of them also imports Ray and vLLM and asks ModelRegistry: 15 to 40 s of two cores, and what
    one node answers all do whose distributions are the same.
    """
    nodes = [
        name for name in hosts.connected if name in facts.nodes and isinstance(facts.nodes[name].image, ImageFacts)
    ]
    nodes = nodes[:1] if one else nodes
    deep = nodes[:1] if ask_registry else []

    def report_of(host: Host) -> Answer:
        probe = image_probe(inventory, facts, host.name, ask_registry=host.name in deep)
        deadline_s = MARGIN_S + (DEEP_DEADLINE_S if host.name in deep else REPORT_DEADLINE_S)
        return _report_of(host, probe_name(inventory.cluster, "image", hosts.run), probe, deadline_s)

    outcomes = hosts.each(report_of, nodes)
    return {name: outcomes.values.get(name) or Unknown(outcomes.errors[name].message) for name in nodes}


def _report_of(host: Host, name: str, probe: ImageProbe, deadline_s: float) -> Answer:
    try:
        return _run(host, name, probe, deadline_s)
    except EngineError as error:
        if error.status is None:
            return Unknown(error.message)
        refused = error
    # What it was that the engine refused is told by trying without it, not by the engine's words.
    for fewer in (probe.without_volumes, probe.without_gpus, probe.without_volumes.without_gpus):
        if fewer == probe:
            continue
        try:
            found = _run(host, name, fewer, deadline_s)
        except EngineError as error:
            if error.status is None:
                return Unknown(error.message)
            continue
        without_gpus = "device_requests" not in fewer.host_config and probe.gpus > 0
        if isinstance(found, ImageReport) and without_gpus:
            return replace(found, gpu_error=refused.message)
        return found
    return RunFailed(refused.message)


def _run(host: Host, name: str, probe: ImageProbe, deadline_s: float) -> Answer:
    files = [FileInContainer(REPORT_PATH, REPORT_SOURCE.read_bytes())]
    if probe.options is not None:
        files.append(FileInContainer(OPTIONS_PATH, probe.options.encode()))
    return read_output(host.engine.run_once(name, probe.config, probe.host_config, files, deadline_s=deadline_s))


REPORT_PATH = "/opt/clusterctl/report.py"
OPTIONS_PATH = "/etc/clusterctl/asked.yaml"
"""What the server would be started with."""


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
    options: str | None = None
    """vLLM's file of options, which it is to be asked about."""

    @property
    def without_gpus(self) -> ImageProbe:
        """The same without GPUs: whether it is they that keep the container from starting."""
        body = {key: value for key, value in self.host_config.items() if key != "device_requests"}
        return replace(self, host_config=body, gpus=0)

    @property
    def without_volumes(self) -> ImageProbe:
        """The same without the operator's own volumes, of which one may not be there yet."""
        model_path = self.config["command"][1]
        mounts = [mount for mount in self.host_config["mounts"] if mount["Target"] == model_path]
        return replace(self, host_config={**self.host_config, "mounts": mounts})


def gpus_wanted(inventory: Inventory, facts: ClusterFacts) -> int:
    """GPUs that the serving container asks for on each node; 0 where there are none to ask for."""
    if inventory.accelerator.kind != "nvidia":
        return 0
    per_node = accelerators_per_node(inventory, facts)
    try:
        layout = layout_of(inventory, per_node)
    except ValueError:
        return per_node  # a finding of its own
    return layout.gpus_per_node


def image_probe(inventory: Inventory, facts: ClusterFacts, node: str, *, ask_registry: bool = False) -> ImageProbe:
    """What to start on that node, whose image and containers were read."""
    found = facts.nodes[node]
    assert isinstance(found.image, ImageFacts)  # noqa: S101 (the caller chose the nodes by it)
    gpus = gpus_wanted(inventory, facts)
    count = gpus if inventory.accelerator.kind == "nvidia" else accelerators_per_node(inventory, facts)
    request = gpu_request(inventory, node, found, count)
    body = dict(host_config(inventory, gpus=request, infiniband=devices_passed(inventory.rdma, found)))
    # The engine makes the directory of a bind mount that is not there; of this kind of mount it refuses to, and
    # looking must change nothing.
    model_there = not isinstance(found.model, Unknown | None)
    body["mounts"] = [_mount(bind) for bind in body.pop("binds")[0 if model_there else 1 :]]
    own = next(each for each in inventory.nodes if each.name == node)
    deadline_s = DEEP_DEADLINE_S if ask_registry else REPORT_DEADLINE_S
    options = _server_options(inventory, facts) if ask_registry else None
    asked = _asked(inventory, options) if ask_registry else []
    config = {
        "image": found.image.id,
        "entrypoint": ["python3", REPORT_PATH],
        "command": [str(deadline_s), inventory.model.path, *asked],
        # Without what clusterctl derives for each node: the rest is what must be alike.
        "environment": {**inventory.container.env, **own.env},
        "labels": dict(probe_labels(inventory.cluster, node)),
    }
    return ImageProbe(config, body, gpus, options)


CONFIGURATION = ("config-format", "hf-config-path", "tokenizer")
"""Options of `vllm serve` that say what it takes for the model's configuration."""


def _asked(inventory: Inventory, options: str | None) -> list[str]:
    """What the deep report is asked beyond the image itself."""
    given = inventory.serve.options
    where = [f"--{name}={given[name]}" for name in CONFIGURATION if given.get(name)]
    return ["--deep", *([f"--options={OPTIONS_PATH}"] if options is not None else []), *where]


def _server_options(inventory: Inventory, facts: ClusterFacts) -> str | None:
    """What vLLM would be given on the head; None where it cannot be decided, which has findings of its own."""
    try:
        deployment = resolve(inventory, facts)
    except ValueError:
        return None
    return server_files(deployment, deployment.head).get(paths.SERVER_CONFIG_PATH)


def _mount(bind: str) -> bodies.Mount:
    source, target, *mode = bind.split(":")
    return bodies.bind_mount(source, target, read_only=mode == ["ro"])
