"""Start agent/peers.py on every node, ask it step by step, and leave nothing behind."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from clusterctl.deployment.way import ways
from clusterctl.errors import ClusterctlError
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.pairs import End, Link, Pair, Pairs, read_end, read_links
from clusterctl.hosts.engine.engine import FileInContainer
from clusterctl.hosts.host import Host, Hosts
from clusterctl.hosts.ssh.errors import HostError
from clusterctl.inventory.model import Inventory
from clusterctl.modes.all import listens_of
from clusterctl.modes.ports import reached_ports
from clusterctl.preflight.container import PEERS_CONFIG_PATH, PEERS_PATH, PEERS_STEP_PATH, peers_container, probe_name
from clusterctl.preflight.inside import PEERS_SOURCE

EPHEMERAL_SAMPLES = 3
"""Ports of the kernel's own choice that are tried, besides the one that latency is measured on."""


def candidates(inventory: Inventory, facts: ClusterFacts) -> Mapping[str, tuple[str, str]]:
    """Nodes that can be asked, each with its private address and the interface through which it reaches the others. The
    others have findings of their own."""
    return {
        name: (str(way.address), way.interface)
        for name, way in ways(inventory, facts).items()
        if not isinstance(facts.nodes[name].image, Unknown | None)
    }


def rounds(names: Sequence[str]) -> Iterator[tuple[Pair, ...]]:
    """Every ordered pair once, in rounds in which no node takes part twice (the circle method of tournaments)."""
    circle: list[str | None] = [*names, *([None] if len(names) % 2 else [])]
    for _ in range(len(circle) - 1):
        half = len(circle) // 2
        pairs = [(a, b) for a, b in zip(circle[:half], reversed(circle[half:]), strict=True) if a and b]
        yield tuple(pairs)
        yield tuple((b, a) for a, b in pairs)
        circle = [circle[0], circle[-1], *circle[1:-1]]


def peers_step(inventory: Inventory, ends: Mapping[str, End], node: str) -> Mapping[str, Any]:
    """What a node is asked to do once all listen."""
    return {
        "step": "peers",
        "interface_mtu": ends[node].mtu,
        "peers": [
            {
                "node": other,
                "address": str(end.address),
                "ports": [*reached_ports(listens_of(inventory), inventory, other), *end.ephemeral],
                "held": end.held,
                "service": end.service,
                "udp": end.udp,
            }
            for other, end in ends.items()
            if other != node
        ],
    }


START_S = 20.0
"""For a container to start and Python in it; 0.6 s in the lab, more on a busy machine."""


STEP_S = 30.0
"""For one node to try all others: connections take at most 2 s, and 512 are tried at once."""


IDLE_S = 60
"""After this time without a step the probe ends by itself: the operator's side is gone."""


READER_END_S = 5.0
"""For the last words of a removed container to be read."""


SEND_S = 1.5
"""Seconds of throughput measurement of one ordered pair."""


class PeerProbe:
    """The probe's container on one node: asked in steps, each answered by one line."""

    def __init__(self, host: Host, name: str, cluster: str, image_id: str, config: Mapping[str, Any]) -> None:
        self._host = host
        self._answers: queue.Queue[Mapping[str, Any]] = queue.Queue()
        self._reader: threading.Thread | None = None
        body, host_config = peers_container(cluster, host.name, image_id)
        self._container = host.engine.create(name, body, host_config)
        try:
            host.engine.put_files(self._container, [
                FileInContainer(PEERS_PATH, PEERS_SOURCE.read_bytes()),
                FileInContainer(PEERS_CONFIG_PATH, json.dumps(config).encode()),
            ])  # fmt: skip
            host.engine.start(self._container)
        except ClusterctlError:
            self.close()
            raise
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def answer(self, timeout_s: float) -> Mapping[str, Any]:
        """The next answer. Raises HostError at the deadline, or with what the probe said when it ended."""
        try:
            said = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            raise HostError(self._host.name, f"the network probe did not answer within {timeout_s:g} s") from None
        if said["event"] == "failed":
            raise HostError(self._host.name, str(said["reason"]))
        return said

    def ask(self, step: Mapping[str, Any], timeout_s: float) -> Mapping[str, Any]:
        """One step, and its answer."""
        self._host.engine.put_files(self._container, [FileInContainer(PEERS_STEP_PATH, json.dumps(step).encode())])
        self._host.engine.signal(self._container, "SIGUSR1")
        return self.answer(timeout_s)

    def close(self) -> None:
        """Remove the container, and with it end the reading of what it says."""
        self._host.engine.remove(self._container)
        if self._reader is not None:
            self._reader.join(READER_END_S)

    def _read(self) -> None:
        rest, errors = b"", b""
        with suppress(ClusterctlError, ValueError):  # ValueError: a line that is not the probe's own ends it, too
            for chunk in self._host.engine.logs(self._container, follow=True):
                if chunk.stream == "stderr":
                    errors = (errors + chunk.data)[-2000:]
                    continue
                *lines, rest = (rest + chunk.data).split(b"\n")
                for line in lines:
                    self._answers.put(json.loads(line))
        last = errors.decode(errors="replace").strip().splitlines()[-1:]
        self._answers.put(
            {"event": "failed", "reason": f"the network probe ended: {''.join(last) or 'no reason given'}"}
        )


def gather_pairs(hosts: Hosts, inventory: Inventory, facts: ClusterFacts, *, bandwidth: bool = False) -> Pairs | None:
    """What passes between the nodes; None with fewer than two nodes to ask. Takes about 2 s, and with `bandwidth`
    4 s more for each further node."""
    places = candidates(inventory, facts)
    container = probe_name(inventory.cluster, "peers", hosts.run)
    if len(places) < 2:
        return None
    probes: dict[str, PeerProbe] = {}

    def start(host: Host) -> Mapping[str, Any]:
        address, interface = places[host.name]
        image = facts.nodes[host.name].image
        config = {
            "node": host.name,
            "address": address,
            "interface": interface,
            "ports": reached_ports(listens_of(inventory), inventory, host.name),
            "ephemeral": EPHEMERAL_SAMPLES,
            "idle_s": IDLE_S,
        }
        probes[host.name] = PeerProbe(host, container, inventory.cluster, getattr(image, "id", ""), config)
        return probes[host.name].answer(START_S)

    try:
        said = hosts.each(start, places)
        ends: dict[str, End | Unknown] = {name: Unknown(error.message) for name, error in said.errors.items()}
        ends |= {name: read_end(*places[name], answer) for name, answer in said.values.items()}
        listening = {name: end for name in places if isinstance(end := ends[name], End)}
        looked = hosts.each(lambda host: probes[host.name].ask(peers_step(inventory, listening, host.name), STEP_S),
                            listening)  # fmt: skip
        ends |= {name: Unknown(error.message) for name, error in looked.errors.items()}
        known = {name: end for name, end in ends.items() if isinstance(end, End)}
        links = dict(item for node, answer in looked.values.items() for item in read_links(node, known, answer))
        sent = _throughput(hosts, probes, known, links) if bandwidth else {}
    finally:
        hosts.each(lambda host: probes[host.name].close(), list(probes))
    return Pairs({name: ends[name] for name in places}, links, sent)


def _throughput(
    hosts: Hosts, probes: Mapping[str, PeerProbe], ends: Mapping[str, End], links: Mapping[Pair, Link]
) -> dict[Pair, float]:
    """Gbit/s of every ordered pair that is open; no node is in two measurements at once."""
    found: dict[Pair, float] = {}
    for pairs in rounds(list(ends)):
        to = {a: b for a, b in pairs if (a, b) in links and links[a, b].min_us is not None}

        def send(host: Host, to: Mapping[str, str] = to) -> Mapping[str, Any]:
            end = ends[to[host.name]]
            step = {"step": "send", "address": str(end.address), "port": end.service, "seconds": SEND_S}
            return probes[host.name].ask(step, SEND_S + STEP_S)

        for name, answer in hosts.each(send, to).values.items():
            found[name, to[name]] = round(answer["bytes"] * 8 / answer["seconds"] / 1e9, 2)
    return {pair: found[pair] for pair in links if pair in found}
