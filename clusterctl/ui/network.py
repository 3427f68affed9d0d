"""The network between the nodes as `check` shows it: the environment of each node, and what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from clusterctl.deployment.rdma import Ports
from clusterctl.facts.cluster import DeepFacts
from clusterctl.facts.collective import Collective, NodeRun
from clusterctl.facts.fact import Unknown
from clusterctl.facts.pairs import Pair, Pairs

Environments = Mapping[str, Mapping[str, str]]


NO_PORTS: Mapping[str, Ports] = {}


def network_lines(
    environments: Environments, deep: DeepFacts | None, ports: Mapping[str, Ports] = NO_PORTS
) -> Iterator[str]:
    """For a person."""
    if environments:
        yield "environment of each node:"
        for name, variables in environments.items():
            yield f"  {name}: {' '.join(f'{key}={value}' for key, value in variables.items())}"
    if any(own.used or own.left_out for own in ports.values()):
        yield "RDMA ports of each node:"
        yield from (f"  {name}: {_ports_line(own)}" for name, own in ports.items())
    if deep is not None and isinstance(deep.pairs, Pairs):
        yield from _pairs_lines(deep.pairs)
    if deep is not None and isinstance(deep.collective, Collective):
        yield _collective_line(deep.collective)


def _ports_line(ports: Ports) -> str:
    used = ", ".join(port.name for port in ports.used) or "none"
    left = ", ".join(each.text for each in ports.left_out)
    return f"{used}; left out: {left}" if left else used


def _pairs_lines(pairs: Pairs) -> Iterator[str]:
    times = [link.min_us for link in pairs.links.values() if link.min_us is not None]
    is_open = sum(set(link.ports.values()) == {"ok"} for link in pairs.links.values())
    reach = f", round trip {min(times) / 1000:.2f} to {max(times) / 1000:.2f} ms" if times else ""
    yield f"pairs of nodes: {is_open} of {len(pairs.links)} directions open on every port tested{reach}"


def bandwidth_table(pairs: Pairs) -> Table:
    """TCP throughput as a matrix: a row for each sender, a column for each receiver."""
    names = list(pairs.ends)
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("Gbit/s from \\ to", justify="left")
    for name in names:
        table.add_column(name, justify="right")
    for source in names:
        rates = (pairs.gbit_per_s.get((source, target)) for target in names)
        table.add_row(source, *("-" if rate is None else f"{rate:.1f}" for rate in rates))
    return table


def _collective_line(ran: Collective) -> str:
    speed = ran.bus_gbyte_per_s
    if speed is None:
        return f"all-reduce: {ran.world} ranks ({ran.backend}) failed"
    return f"all-reduce: {ran.world} ranks ({ran.backend}), {speed:.2f} GB/s bus bandwidth{_ways(ran)}"


def _ways(ran: Collective) -> str:
    ways = sorted({way for run in ran.nodes.values() if isinstance(run, NodeRun) for way in _way(run)})
    return f", between nodes via {', '.join(ways)}" if ways else ""


def _way(run: NodeRun) -> Iterator[str]:
    for net in run.transport.channels:
        yield f"NET/{net}{'/GDRDMA' if run.transport.gdrdma else ''}"


def network_json(
    environments: Environments, deep: DeepFacts | None, ports: Mapping[str, Ports] = NO_PORTS
) -> dict[str, Any]:
    """For machines. What was not measured is null."""
    pairs = deep.pairs if deep is not None else None
    ran = deep.collective if deep is not None else None
    return {
        "environment": {name: dict(variables) for name, variables in environments.items()},
        "rdma": {
            name: {
                "used": [port.name for port in own.used],
                "left_out": [{"port": each.port.name, "reason": each.reason} for each in own.left_out],
            }
            for name, own in ports.items()
        },
        "pairs": [_pair_json(pair, pairs) for pair in pairs.links] if isinstance(pairs, Pairs) else None,
        "collective": _collective_json(ran),
    }


def _pair_json(pair: Pair, pairs: Pairs) -> dict[str, Any]:
    link = pairs.links[pair]
    return {
        "from": pair[0],
        "to": pair[1],
        "ports": {str(port): outcome for port, outcome in link.ports.items()},
        "interface": link.route.interface if link.route else None,
        "largest_packet_bytes": link.largest_packet,
        "round_trip_min_us": link.min_us,
        "round_trip_median_us": link.median_us,
        "gbit_per_s": pairs.gbit_per_s.get(pair),
    }


def _collective_json(ran: Collective | Unknown | None) -> dict[str, Any] | None:
    if ran is None or isinstance(ran, Unknown):
        return None if ran is None else {"passed": None, "reason": ran.reason}
    return {
        "backend": ran.backend,
        "ranks": ran.world,
        "bytes": ran.bytes,
        "passed": ran.passed,
        "bus_gbyte_per_s": ran.bus_gbyte_per_s,
        "nodes": {name: _run_json(run) for name, run in ran.nodes.items()},
    }


def _run_json(run: NodeRun | Unknown) -> dict[str, Any]:
    if isinstance(run, Unknown):
        return {"reason": run.reason}
    way = run.transport
    return {
        "nccl": way.version,
        "channels": dict(way.channels),
        "channels_gdrdma": way.gdrdma,
        "hcas": list(way.hcas),
        "bootstrap": list(way.bootstrap or ()),
        "errors": {str(rank): error for rank, error in run.errors.items()},
    }
