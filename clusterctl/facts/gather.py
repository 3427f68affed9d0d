"""Read every node in parallel: one probe pass over SSH and a handful of engine calls. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from clusterctl.facts import amd, cdi, model_files, model_headers, nvidia, parse, rdma, routing, system
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.containers import (
    beside,
    cluster_containers,
    has_probe,
    holds_rank,
    leftover_names,
    other_clusters,
    with_containers,
)
from clusterctl.facts.engine import cache_facts, engine_facts, image_facts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.records import ContainerFacts, EngineFacts, Listener, OtherCluster, Unreachable
from clusterctl.hosts.host import Host, Hosts
from clusterctl.hosts.ssh.framing import shown
from clusterctl.inventory.model import Inventory
from clusterctl.modes.all import listens_of, ports_of
from clusterctl.modes.ports import reached_ports
from clusterctl.progress import SILENT, Progress

PROBE_TIMEOUT_S = 20
"""A healthy node answers the probe well within a second; a hung one (a dead mount, say) holds up the report on the
others no longer than this."""


PROBES_END_S = 20.0
"""How long probes of another run are waited for; the network's take 2 s."""


PROBES_POLL_S = 0.2


SHOWN_STRAGGLERS = 3
"""Nodes that are still waited for are named from here on down: the last ones are those that matter."""


PARTS = ("frame", "node", "system", "gpu", "rdma", "model", "end")
"""Parts of the probe (probes/*.sh), in the order in which they are joined to one script."""


PROBE = b"\n".join(Path(__file__).with_name("probes").joinpath(f"{part}.sh").read_bytes() for part in PARTS)

SOCKETS = {"docker": "engine_socket", "podman": "podman_socket"}
"""The engine's command → the section of the probe that looked for its socket."""


def gather(
    hosts: Hosts, inventory: Inventory, progress: Progress = SILENT, now: Callable[[], float] = time.time
) -> ClusterFacts:
    """Facts of all nodes. A node that fails in the middle is reported as unreachable with the reason.

    `now` is our own clock (Unix time in seconds), which the nodes' are compared with.
    """
    count = len(hosts.connected)

    def waiting_for(names: Sequence[str]) -> None:
        if len(names) <= SHOWN_STRAGGLERS:
            rest = f", waiting for {', '.join(names)}" if names else ""
            progress.detail(f"{count - len(names)}/{count} nodes read{rest}")

    outcomes = hosts.each(lambda host: gather_node(host, inventory, now), waiting_for=waiting_for)
    unreachable = {name: Unreachable(error.message, error.hint) for name, error in hosts.unreachable.items()}
    unreachable |= {name: Unreachable(error.message, error.hint) for name, error in outcomes.errors.items()}
    return ClusterFacts(model_headers.with_headers(hosts, inventory.model.path, outcomes.values), unreachable)


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
        containers = cluster_containers(host, inventory.cluster)
        if isinstance(containers, Unknown) or not has_probe(containers) or time.monotonic() > deadline:
            return _read_node(host, inventory, now)[0]


def _may_be_a_probe(inventory: Inventory, name: str, facts: NodeFacts, *, probed: bool) -> bool:
    """Whether something on the node is in the cluster's way that may be another run's probe."""
    if not isinstance(facts.containers, tuple) or any(container.running for container in facts.containers):
        return False
    listeners = facts.listeners if isinstance(facts.listeners, tuple) else ()
    return (probed and bool(facts.gpu_processes)) or not {each.port for each in listeners}.isdisjoint(
        reached_ports(listens_of(inventory), inventory, name)
    )


def _read_node(host: Host, inventory: Inventory, now: Callable[[], float]) -> tuple[NodeFacts, bool]:
    """Facts of one node, and whether a probe of another run is at work there."""
    asked_at_s = now()
    timeout_s = min(PROBE_TIMEOUT_S, inventory.timeouts.command_s)
    done = host.connection.run(
        ["sh", "-s", "--", inventory.model.path, *routing.asked(inventory, host.name)],
        stdin=PROBE,
        timeout_s=timeout_s,
        read_only=True,
    )
    answered_at_s = now()
    found = parse.sections(done.stdout.decode(errors="replace"))
    engine = engine_facts(host, found.get(SOCKETS[host.engine.commands.program]), sudo=inventory.container.sudo)
    usable = isinstance(engine, EngineFacts)
    not_asked = Unknown("the engine does not answer")
    containers = cluster_containers(host, inventory.cluster) if usable else not_asked
    listeners = parse.listeners(found)
    facts = NodeFacts(
        hostname=parse.text(found, "hostname"),
        kernel=parse.text(found, "kernel"),
        memory_available_bytes=parse.memory_available(found),
        addresses=parse.addresses(found),
        listeners=listeners,
        gpus=parse.gpus(found),
        gpu_processes=with_containers(host, parse.gpu_processes(found)) if usable else parse.gpu_processes(found),
        others=_others(host, inventory, containers, listeners),
        gpu_remarks=parse.gpu_remarks(found),
        routing=routing.routing(found),
        infiniband=parse.infiniband(found),
        rdma=rdma.rdma(found),
        system=system.system(found, asked_at_s=asked_at_s, answered_at_s=answered_at_s),
        nvidia=nvidia.nvidia(found),
        amd_gpus=amd.amd_gpus(found),
        amd_render_nodes=amd.render_nodes(found),
        cdi=cdi.cdi_specs(found),
        model=model_files.model(found),
        engine=engine,
        image=image_facts(host, inventory.container.image) if usable else not_asked,
        containers=containers if isinstance(containers, Unknown) else tuple(c for c in containers if holds_rank(c)),
        beside=beside(containers),
        leftovers=leftover_names(engine, containers),
        cache=cache_facts(host, inventory.cluster) if usable else not_asked,
        login_prints=shown(host.connection.login_prints),
        commands=host.engine.commands,
    )
    return facts, isinstance(containers, tuple) and has_probe(containers)


def _others(
    host: Host,
    inventory: Inventory,
    containers: tuple[ContainerFacts, ...] | Unknown,
    listeners: tuple[Listener, ...] | Unknown,
) -> tuple[OtherCluster, ...]:
    """Other clusters on the node; asked only where one of this cluster's ports is taken and not by itself, or where
    they may have its GPUs."""
    if isinstance(containers, Unknown) or isinstance(listeners, Unknown):
        return ()
    ours = any(container.running for container in containers)
    taken = {each.port for each in listeners} & set(ports_of(inventory, host.name))
    return (
        other_clusters(host, inventory.cluster)
        if (taken or inventory.accelerator.kind == "nvidia") and not ours
        else ()
    )
