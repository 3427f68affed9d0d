"""Pairs of nodes and all-reduces from short notations in YAML (fixtures/findings-network.yaml)."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address
from itertools import permutations
from typing import Any

from clusterctl.facts.collective import Collective, read_run
from clusterctl.facts.fact import Unknown
from clusterctl.facts.pairs import End, Link, Pairs, Route
from clusterctl.inventory.model import Inventory
from clusterctl.modes.all import listens_of
from clusterctl.modes.ports import reached_ports
from tests.unit.support import FIXTURES

EPHEMERAL, SERVICE, UDP = (40001, 40002, 40003), 40010, 40020


def pairs(inventory: Inventory, said: Mapping[str, Any]) -> Pairs:
    """`ends`: node → {mtu, held} or {unknown: reason}. `links`: "gpu1 gpu2" (from, to) → what differs from a good link.
    `gbit`: the same key → Gbit/s."""
    names = [node.name for node in inventory.nodes]
    ends = {name: end(number, said.get("ends", {}).get(name, {})) for number, name in enumerate(names, start=1)}
    up = [name for name in names if isinstance(ends[name], End)]
    links = {
        (a, b): link(inventory, ends[a], ends[b], b, said.get("links", {}).get(f"{a} {b}", {}))
        for a, b in permutations(up, 2)
    }
    gbit = {pair: said["gbit"].get(" ".join(pair), 100.0) for pair in links} if "gbit" in said else {}
    return Pairs(ends, links, gbit)


def end(number: int, said: Mapping[str, Any]) -> End | Unknown:
    if "unknown" in said:
        return Unknown(said["unknown"])
    address = IPv4Address(f"10.77.0.1{number}")
    return End(address, "eth1", said.get("mtu", 9000), tuple(said.get("held", ())), EPHEMERAL, SERVICE, UDP)


def link(inventory: Inventory, a: End | Unknown, b: End | Unknown, to: str, said: Mapping[str, Any]) -> Link:
    assert isinstance(a, End)
    assert isinstance(b, End)
    tried = (*reached_ports(listens_of(inventory), inventory, to), *EPHEMERAL, SERVICE)
    every = said.get("every", "ok")
    outcomes = {port: said.get("ports", {}).get(port, every) for port in tried}
    interface, source = said.get("route", (a.interface, str(a.address)))
    silent = outcomes[SERVICE] != "ok"
    return Link(
        ports=outcomes,
        route=Route(interface, IPv4Address(source)),
        largest_packet=said.get("largest", None if silent else min(a.mtu, b.mtu)),
        min_us=None if silent else said.get("min_us", 40.0),
        median_us=None if silent else said.get("min_us", 40.0) + 10,
        bulk=None if silent else said.get("bulk", True),
    )


def collective(said: Mapping[str, Any]) -> Collective | Unknown:
    """`nodes`: node → {log: a capture below fixtures/nccl} or {lines: [...]} or {unknown: reason}; one rank a node."""
    if "unknown" in said:
        return Unknown(said["unknown"])
    return Collective(
        backend=said.get("backend", "nccl"),
        bytes=268435456,
        ranks={name: (rank,) for rank, name in enumerate(said["nodes"])},
        nodes={
            name: Unknown(run["unknown"]) if "unknown" in run else read_run(lines(run))
            for name, run in said["nodes"].items()
        },
    )


def lines(run: Mapping[str, Any]) -> list[str]:
    if "log" in run:
        return (FIXTURES / "nccl" / str(run["log"])).read_text(encoding="utf-8").splitlines()
    return [str(line) for line in run["lines"]]
