"""What only work on the nodes shows: the image run once on each. `check` asks it; and `up`, unless `--check quick`.

Not part of the one probe pass (gather.py): it starts containers and takes seconds. Nothing it starts stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from clusterctl.agent import REPORT_SOURCE
from clusterctl.apply import remove_probes
from clusterctl.facts.collective import gather_collective
from clusterctl.facts.image_report import ImageReport, RunFailed, read_output
from clusterctl.facts.model import ClusterFacts, DeepFacts, ImageFacts, Unknown
from clusterctl.facts.peering import gather_pairs
from clusterctl.hosts.engine import EngineError, FileInContainer
from clusterctl.hosts.host import Host, Hosts
from clusterctl.planning.image_probe import (
    DEEP_DEADLINE_S,
    REPORT_DEADLINE_S,
    REPORT_PATH,
    ImageProbe,
    gpus_wanted,
    image_probe,
)
from clusterctl.planning.probe import probe_name

Answer = ImageReport | RunFailed | Unknown

MARGIN_S = 15
"""Seconds beyond the report's own deadline, for the engine to start and remove the container."""


@dataclass(frozen=True)
class Asked:
    """What is asked beyond what every `check` asks."""

    registry: bool = False
    """vLLM's ModelRegistry about the model: minutes of two cores."""
    bandwidth: bool = False
    """TCP throughput of every pair: 4 s more for each further node."""
    collective: bool = False
    """An all-reduce across the nodes: 10 s, and the accelerators."""


NOTHING_MORE = Asked()


def with_deep(hosts: Hosts, facts: ClusterFacts, asked: Asked = NOTHING_MORE) -> ClusterFacts:
    """The facts, and what running something on the nodes adds to them."""
    remove_probes(hosts, facts)
    return replace(facts, deep=gather_deep(hosts, facts, asked))


def gather_deep(hosts: Hosts, facts: ClusterFacts, asked: Asked = NOTHING_MORE) -> DeepFacts:
    """Everything that is asked by running something. Each part is one call here and one field of DeepFacts."""
    return DeepFacts(
        images=gather_images(hosts, facts, ask_registry=asked.registry),
        gpus_wanted=gpus_wanted(hosts.inventory, facts),
        pairs=gather_pairs(hosts, facts, bandwidth=asked.bandwidth),
        collective=gather_collective(hosts, facts) if asked.collective else None,
    )


def gather_images(hosts: Hosts, facts: ClusterFacts, *, ask_registry: bool = False) -> Mapping[str, Answer]:
    """The image's report from every node that has the image, all at once.

    With `ask_registry` one of them also imports Ray and vLLM and asks ModelRegistry: 15 to 40 s of two cores, and what
    one node answers all do whose distributions are the same.
    """
    nodes = [
        name for name in hosts.connected if name in facts.nodes and isinstance(facts.nodes[name].image, ImageFacts)
    ]
    deep = nodes[:1] if ask_registry else []
    outcomes = hosts.each(lambda host: _report_of(host, hosts, facts, ask_registry=host.name in deep), nodes)
    return {name: outcomes.values.get(name) or Unknown(outcomes.errors[name].message) for name in nodes}


def _report_of(host: Host, hosts: Hosts, facts: ClusterFacts, *, ask_registry: bool) -> Answer:
    probe = image_probe(hosts.inventory, facts, host.name, ask_registry=ask_registry)
    name = probe_name(hosts.inventory.cluster, "image", hosts.run)
    deadline_s = MARGIN_S + (DEEP_DEADLINE_S if ask_registry else REPORT_DEADLINE_S)
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
    script = FileInContainer(REPORT_PATH, REPORT_SOURCE.read_bytes())
    return read_output(host.engine.run_once(name, probe.config, probe.host_config, [script], deadline_s=deadline_s))
