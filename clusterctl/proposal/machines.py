"""The nodes' names, the head, the engine, and what the nodes compute with. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address

from clusterctl.deployment.gpus import access
from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Unknown
from clusterctl.facts.records import EngineFacts
from clusterctl.facts.system import EngineProcess
from clusterctl.inventory.model import NAME_PATTERN, Inventory
from clusterctl.proposal.choice import Choice, listed


def names(hosts: Sequence[str], hostnames: Sequence[str | None]) -> tuple[Choice, ...]:
    """A name for each node: the first label of its host, of an address what the node calls itself, else a number."""
    wanted = [
        _named(host, said) or (f"node{number}", "a number")
        for number, (host, said) in enumerate(zip(hosts, hostnames, strict=True), start=1)
    ]
    counts = Counter(name for name, _ in wanted)
    return tuple(
        Choice(f"nodes[{index}].name", name, why)
        if counts[name] == 1
        else Choice(f"nodes[{index}].name", f"node{index + 1}", f"a number: several nodes are called {name}")
        for index, (name, why) in enumerate(wanted)
    )


def _named(host: str, hostname: str | None) -> tuple[str, str] | None:
    of_host = None if _is_address(host) or host.lower() == "localhost" else host
    for text, why in ((of_host, "of its host"), (hostname, "what the node calls itself")):
        label = (text or "").partition(".")[0].lower()
        if re.fullmatch(NAME_PATTERN, label) and label != "localhost":
            return label, why
    return None


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def head(nodes: Sequence[str], facts: ClusterFacts) -> Choice:
    """The first node that answered and has an engine."""
    answered = [name for name in nodes if name in facts.nodes]
    ready = [name for name in answered if isinstance(facts.nodes[name].engine, EngineFacts)] or answered
    why = "the first of --hosts"
    if ready[0] != nodes[0]:
        before = nodes[: nodes.index(ready[0])]
        why = f"the first that answers and has a container engine; not {listed(before)}"
    return Choice("head", ready[0], why)


def sudo(facts: ClusterFacts, *, with_sudo: bool) -> Choice:
    """How the engine is reached; `with_sudo` says how it was asked."""
    have = {name: node.engine for name, node in facts.nodes.items() if isinstance(node.engine, EngineFacts)}
    lack = {name: node.engine for name, node in facts.nodes.items() if name not in have}
    versions = Counter(f"{engine.kind.capitalize()} {engine.version}" for engine in have.values())
    said = ", ".join(f"{version} on {count}" for version, count in versions.most_common(3))
    how = "with sudo: the login itself may not use it" if with_sudo else "the login may use it"
    why = f"{said} of {len(facts.nodes)} nodes; {how}" if said else "no node's engine could be asked"
    warnings = tuple(
        f"{name}: {engine.reason if isinstance(engine, Unknown) else 'no container engine'}"
        for name, engine in lack.items()
    )
    return Choice("container.sudo", with_sudo, why, warnings=warnings)


def accelerators(inventory: Inventory, facts: ClusterFacts) -> tuple[Choice, Choice]:
    """Their kind, and how many of each node."""
    nvidia = {name: len(node.gpus) for name, node in facts.nodes.items() if isinstance(node.gpus, tuple) and node.gpus}
    amd = {
        name: node.amd_gpus for name, node in facts.nodes.items() if isinstance(node.amd_gpus, int) and node.amd_gpus
    }
    unread = tuple(
        f"{name}: its GPUs could not be read ({node.gpus.reason})"
        for name, node in facts.nodes.items()
        if isinstance(node.gpus, Unknown)
    )
    if not nvidia and not amd and unread:
        why = "GPUs are there, as NVIDIA's tools are, and could not be read"
        return (
            Choice("accelerator.kind", "nvidia", why, warnings=unread),
            Choice("accelerator.per_node", "auto", "all of them, as their number is not known"),
        )
    if not nvidia and not amd:
        why = "no GPU was seen on any node: vLLM's CPU build (where there are GPUs, their driver is missing)"
        return (
            Choice("accelerator.kind", "cpu", why, warnings=unread),
            Choice("accelerator.per_node", 1, "one slot on each node"),
        )
    kind, counts = ("nvidia", nvidia) if len(nvidia) >= len(amd) else ("amd", amd)
    without = [name for name in facts.nodes if name not in counts]
    kind_warnings = (*unread, *((f"no GPUs on {listed(without)}",) if without and not unread else ()))
    fewest = min(counts.values())
    said = listed([f"{name}: {count}" for name, count in counts.items()], 8)
    uneven = (f"the nodes have {said}; {fewest} of each are used",) if len(set(counts.values())) > 1 else ()
    kinds = _gpu_names(facts)
    why = f"{kinds} ({_ways(inventory, facts, list(counts))})" if kind == "nvidia" else "AMD's GPUs, by rocm-smi"
    each = "as many as every node has" if uneven else "on every node"
    return (
        Choice("accelerator.kind", kind, why, warnings=kind_warnings),
        Choice("accelerator.per_node", fewest, each, warnings=uneven),
    )


def _gpu_names(facts: ClusterFacts) -> str:
    gpus = [gpu.name for node in facts.nodes.values() if isinstance(node.gpus, tuple) for gpu in node.gpus]
    return ", ".join(f"{count} x {name}" for name, count in Counter(gpus).most_common(3))


def _ways(inventory: Inventory, facts: ClusterFacts, nodes: Sequence[str]) -> str:
    """How containers get them, by node where that differs."""
    by_way: dict[str, list[str]] = {}
    for name in nodes:
        way, why = access(inventory, facts.nodes[name])
        by_way.setdefault(f"{'CDI' if way == 'cdi' else way}: {why}", []).append(name)
    if len(by_way) == 1:
        return f"given to containers by {next(iter(by_way))}"
    return "; ".join(f"{listed(having)} by {way}" for way, having in by_way.items())


def ulimits(facts: ClusterFacts) -> Choice | None:
    """Without unlimited locked memory, where an engine may not raise it and nothing needs it; None: as by default."""
    bound = [name for name, node in facts.nodes.items() if _is_bound(node)]
    rdma = any(isinstance(node.infiniband, tuple) and node.infiniband for node in facts.nodes.values())
    if not bound or rdma:
        return None
    why = f"the engine on {listed(bound)} may not raise the limit of locked memory, and there is no RDMA that needs it"
    return Choice("container.ulimits", {"stack": 67108864}, why)


def _is_bound(node: NodeFacts) -> bool:
    process = node.system.engine_process
    return isinstance(process, EngineProcess) and process.memlock_hard_bytes != -1 and not process.may_raise_limits
