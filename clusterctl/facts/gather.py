"""Read every node in parallel: one probe pass over SSH and a handful of engine calls. Changes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from clusterctl.errors import ClusterctlError
from clusterctl.facts import amd, model_files, model_headers, nvidia, parse, rdma, system
from clusterctl.facts.model import (
    ClusterFacts,
    ContainerFacts,
    EngineFacts,
    Fact,
    ImageFacts,
    NodeFacts,
    Unknown,
    Unreachable,
)
from clusterctl.facts.pairs import pinned_ports
from clusterctl.hosts.engine import EngineError
from clusterctl.hosts.host import Host, Hosts
from clusterctl.inventory.model import Inventory
from clusterctl.planning.container import LABEL_ROLE
from clusterctl.planning.paths import SPEC_PATH, STATE_PATH
from clusterctl.planning.probe import ROLE_PROBE
from clusterctl.ui.progress import SILENT, Progress

PROBE_TIMEOUT_S = 20
"""A healthy node answers the probe well within a second; a hung one (a dead mount, say) holds up the report on the
others no longer than this."""
STARTING_S = 10
"""Between the making and the start of a probe's container: 0.1 s in the lab, more on a busy machine."""
PROBES_END_S = 20.0
"""How long probes of another run are waited for; the network's take 2 s."""
PROBES_POLL_S = 0.2
SHOWN_STRAGGLERS = 3
"""Nodes that are still waited for are named from here on down: the last ones are those that matter."""
PARTS = ("frame", "node", "system", "gpu", "rdma", "model", "end")
"""Parts of the probe (probes/*.sh), in the order in which they are joined to one script."""
PROBE = b"\n".join(Path(__file__).with_name("probes").joinpath(f"{part}.sh").read_bytes() for part in PARTS)


def gather(hosts: Hosts, progress: Progress = SILENT, now: Callable[[], float] = time.time) -> ClusterFacts:
    """Facts of all nodes. A node that fails in the middle is reported as unreachable with the reason.

    `now` is our own clock (Unix time in seconds), which the nodes' are compared with.
    """
    count = len(hosts.connected)

    def waiting_for(names: Sequence[str]) -> None:
        if len(names) <= SHOWN_STRAGGLERS:
            rest = f", waiting for {', '.join(names)}" if names else ""
            progress.detail(f"{count - len(names)}/{count} nodes read{rest}")

    outcomes = hosts.each(lambda host: gather_node(host, hosts.inventory, now), waiting_for=waiting_for)
    unreachable = {name: Unreachable(error.message, error.hint) for name, error in hosts.unreachable.items()}
    unreachable |= {name: Unreachable(error.message, error.hint) for name, error in outcomes.errors.items()}
    return ClusterFacts(model_headers.with_headers(hosts, outcomes.values), unreachable)


def gather_node(host: Host, inventory: Inventory, now: Callable[[], float]) -> NodeFacts:
    """Facts of one node. Raises HostError when SSH itself fails; everything else becomes Unknown.

    What another run of clusterctl tries at this moment (its probes listen on the cluster's own ports, and may hold GPU
    memory) is no fact of the node: where it may be that, the probes are waited for, and the node is read again.
    """
    facts, probed = _read_node(host, inventory, now)
    if not _may_be_a_probe(inventory, host.name, facts, probed=probed):
        return facts
    deadline = time.monotonic() + PROBES_END_S
    while True:
        # Also when none was seen: it may have ended between the two looks, at the ports and at the containers.
        time.sleep(PROBES_POLL_S)
        containers = _containers(host, inventory.cluster)
        if isinstance(containers, Unknown) or not _probed(containers) or time.monotonic() > deadline:
            return _read_node(host, inventory, now)[0]


def _may_be_a_probe(inventory: Inventory, name: str, facts: NodeFacts, *, probed: bool) -> bool:
    """Whether something on the node is in the cluster's way that may be another run's probe."""
    if not isinstance(facts.containers, tuple) or any(container.running for container in facts.containers):
        return False
    listeners = facts.listeners if isinstance(facts.listeners, tuple) else ()
    return (probed and bool(facts.gpu_processes)) or not {each.port for each in listeners}.isdisjoint(
        pinned_ports(inventory, name)
    )


def _probed(containers: tuple[ContainerFacts, ...]) -> bool:
    return any(is_probe(container) and container.running for container in containers)


def _read_node(host: Host, inventory: Inventory, now: Callable[[], float]) -> tuple[NodeFacts, bool]:
    """Facts of one node, and whether a probe of another run is at work there."""
    asked_at_s = now()
    timeout_s = min(PROBE_TIMEOUT_S, inventory.timeouts.command_s)
    done = host.ssh.run(["sh", "-s", "--", inventory.model.path], stdin=PROBE, timeout_s=timeout_s, read_only=True)
    answered_at_s = now()
    found = parse.sections(done.stdout.decode(errors="replace"))
    engine = _engine(host, found.get("engine_socket"), sudo=inventory.container.sudo)
    usable = isinstance(engine, EngineFacts)
    not_asked = Unknown("the engine does not answer")
    containers = _containers(host, inventory.cluster) if usable else not_asked
    facts = NodeFacts(
        hostname=parse.text(found, "hostname"),
        kernel=parse.text(found, "kernel"),
        memory_available_bytes=parse.memory_available(found),
        addresses=parse.addresses(found),
        listeners=parse.listeners(found),
        gpus=parse.gpus(found),
        gpu_processes=parse.gpu_processes(found),
        infiniband=parse.infiniband(found),
        rdma=rdma.rdma(found),
        system=system.system(found, asked_at_s=asked_at_s, answered_at_s=answered_at_s),
        nvidia=nvidia.nvidia(found),
        amd_gpus=amd.amd_gpus(found),
        model=model_files.model(found),
        engine=engine,
        image=_image(host, inventory.container.image) if usable else not_asked,
        containers=containers if isinstance(containers, Unknown) else tuple(c for c in containers if not is_probe(c)),
        leftovers=_leftovers(engine, containers),
    )
    return facts, isinstance(containers, tuple) and _probed(containers)


def _engine(host: Host, socket: parse.Section | None, *, sudo: bool) -> Fact[EngineFacts]:
    if socket is not None and socket.exit_code == parse.COMMAND_NOT_FOUND:
        return None
    if socket is not None and socket.exit_code == parse.ABSENT and not sudo:
        return Unknown("the docker command is there, but no engine runs: /var/run/docker.sock does not exist")
    try:
        info = host.engine.info()
    except EngineError as error:
        if socket is not None and socket.exit_code == parse.NOT_PERMITTED and not sudo:
            return Unknown("this login may not use the engine: /var/run/docker.sock is not writable for it")
        return Unknown(error.message)
    return EngineFacts(
        version=str(info.get("ServerVersion", "")),
        cgroup_driver=str(info.get("CgroupDriver", "")),
        runtimes=tuple(sorted(info.get("Runtimes") or {})),
        data_root=str(info.get("DockerRootDir", "")),
        time=str(info.get("SystemTime", "")),
    )


def _image(host: Host, reference: str) -> Fact[ImageFacts]:
    try:
        image = host.engine.image(reference)
    except EngineError as error:
        return Unknown(error.message)
    if image is None:
        return None
    return ImageFacts(str(image["Id"]), tuple((image.get("RootFS") or {}).get("Layers") or ()))


def _containers(host: Host, cluster: str) -> tuple[ContainerFacts, ...] | Unknown:
    try:
        return tuple(container_facts(host, container) for container in host.engine.containers(cluster))
    except EngineError as error:
        return Unknown(error.message)


def is_probe(container: ContainerFacts) -> bool:
    """Whether it only asks, and ends by itself: no part of the cluster (planning/probe.py)."""
    return container.labels.get(LABEL_ROLE) == ROLE_PROBE


def _leftovers(engine: Fact[EngineFacts], containers: tuple[ContainerFacts, ...] | Unknown) -> tuple[str, ...]:
    if not isinstance(engine, EngineFacts) or isinstance(containers, Unknown):
        return ()
    return tuple(container.id for container in containers if is_leftover(container, engine.time))


def is_leftover(container: ContainerFacts, now: str) -> bool:
    """Whether it is a probe that nobody waits for any more: the engine removes one that ends, not one whose
    clusterctl was killed before it started it. One made just now is another run's that is about to start it."""
    if not is_probe(container) or container.running:
        return False
    try:
        age = datetime.fromisoformat(now) - datetime.fromisoformat(container.created_at)
    except (ValueError, TypeError):  # an engine that does not say: whatever does not run is left
        return True
    return age.total_seconds() > STARTING_S


def container_facts(host: Host, inspected: Mapping[str, Any]) -> ContainerFacts:
    """Facts of one inspected container, with what it was started with and what its agent says."""
    state = inspected["State"]
    return ContainerFacts(
        id=inspected["Id"],
        name=str(inspected["Name"]).lstrip("/"),
        labels=inspected["Config"].get("Labels") or {},
        status=str(state["Status"]),
        exit_code=int(state.get("ExitCode", 0)),
        started_at=str(state.get("StartedAt", "")),
        restart_policy=str((inspected.get("HostConfig") or {}).get("RestartPolicy", {}).get("Name") or "no"),
        restart_count=int(inspected.get("RestartCount", 0)),
        spec=json_in(host, inspected["Id"], SPEC_PATH),
        state=json_in(host, inspected["Id"], STATE_PATH),
        created_at=str(inspected.get("Created", "")),
    )


def json_in(host: Host, container: str, path: str) -> Fact[Mapping[str, Any]]:
    """A JSON file in a container, running or not; None when the file or the container is absent."""
    try:
        content = host.engine.read_file(container, path)
        value = None if content is None else json.loads(content)
    except (ClusterctlError, ValueError) as error:
        return Unknown(f"{path}: {error}")
    return value if value is None or isinstance(value, dict) else Unknown(f"{path} holds no JSON object")
