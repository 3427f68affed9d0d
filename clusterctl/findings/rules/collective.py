"""The all-reduce of `check --nccl`: did it end, and over what did it go? Pure; one small function a rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from clusterctl.deployment.address import private_address
from clusterctl.deployment.rdma import chosen_ports
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.collective import Collective, NodeRun
from clusterctl.facts.fact import Unknown
from clusterctl.findings.finding import Finding, Severity
from clusterctl.inventory.model import Inventory
from clusterctl.signatures.nccl import Transport
from clusterctl.signatures.signature import Explanation

NVLINK_BETWEEN_NODES = "P2P/MNNVL"
"""The path of machines whose NVLink spans nodes (GB200 NVL72); their channels use no network."""


def collective(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Everything about the all-reduce, when it was asked for."""
    ran = facts.deep.collective if facts.deep is not None else None
    if isinstance(ran, Unknown):
        yield Finding(
            "collective-unknown",
            Severity.WARNING,
            (),
            f"the all-reduce was not run: {ran.reason}",
            "only a run shows which way NCCL takes between the nodes (F23, F31)",
            "mend what the reason says, then run clusterctl check --nccl again",
        )
    elif ran is not None:
        yield from _failed(ran)
        yield from _transport(inventory, facts, ran)
        yield from _interface(inventory, facts, ran)


def _failed(ran: Collective) -> Iterator[Finding]:
    """It did not end with the right sum on every rank. One finding: who failed first is what matters."""
    if ran.passed:
        return
    stuck = [name for name, run in ran.nodes.items() if _problem(ran, name, run)]
    reasons = [f"{name}: {_problem(ran, name, ran.nodes[name])}" for name in stuck]
    cause = next((cause for run in ran.nodes.values() if isinstance(run, NodeRun) for cause in _telling(run)), None)
    yield Finding(
        "collective-failed",
        Severity.ERROR,
        tuple(stuck),
        f"an all-reduce of {ran.world} ranks ({ran.backend}) failed: {'; '.join(reasons)}",
        f"{cause.meaning} ({cause.name}): {cause.line[:200]}" if cause else
        "vLLM's first collective would fail or hang in the same way (F54, F55)",
        cause.fix if cause else "clusterctl check (ports and MTU of every pair), then look at the node named first",
    )  # fmt: skip


def _telling(run: NodeRun) -> tuple[Explanation, ...]:
    """Causes of a node that failed. That NCCL found no HCA explains TCP, and no failure, unless RDMA is demanded."""
    if not run.errors and not run.late:
        return ()
    demanded = any("Failed to initialize any NET plugin" in cause.line for cause in run.causes)
    return tuple(cause for cause in run.causes if demanded or cause.failure_mode not in ("F23", "F24", "F25"))


def _problem(ran: Collective, name: str, run: NodeRun | Unknown) -> str:
    """Why a node's part did not end well; empty when it did."""
    if isinstance(run, Unknown):
        return run.reason
    if run.errors:
        rank, error = next(iter(run.errors.items()))
        return f"rank {rank}: {' '.join(error.split())[:300]}"
    missing = [rank for rank in ran.ranks[name] if rank not in run.reduced]
    if not missing:
        return ""
    where = "did not join" if set(missing) - set(run.joined) else "joined, and did not end"
    lines = f" ({run.lines[0][:200]})" if run.lines else ""
    return f"rank {', '.join(map(str, missing))} {where}{'' if run.joined else lines}"


def _transport(inventory: Inventory, facts: ClusterFacts, ran: Collective) -> Iterator[Finding]:
    """TCP where RDMA was to be (F23), and RDMA through the CPU's memory (F30)."""
    if ran.backend != "nccl" or len(ran.nodes) < 2:
        return
    for name, run in ran.nodes.items():
        if not isinstance(run, NodeRun) or not run.reduced:
            continue
        way = run.transport
        explained = next((c for c in run.causes if c.failure_mode in ("F22", "F23", "F24", "F25")), None)
        if way.over_tcp and (
            inventory.rdma == "required" or (inventory.rdma == "auto" and _has_rdma(inventory, facts, name))
        ):
            yield Finding(
                "collective-over-tcp",
                Severity.ERROR if inventory.rdma == "required" else Severity.WARNING,
                (name,),
                f"NCCL talked over TCP: {_shown(way.channels)}" + (f"; «{explained.line[-120:]}»" if explained else ""),
                f"the node has RDMA, and rdma is {inventory.rdma}: TCP is several times slower (F23)",
                explained.fix
                if explained
                else "clusterctl check: RDMA ports, /dev/infiniband and the image's libraries",
            )
        elif _over_ib(way) and way.gdrdma == 0 and _own_memory(facts, name):
            yield Finding(
                "collective-without-gpudirect",
                Severity.WARNING,
                (name,),
                f"NCCL uses RDMA without GPUDirect: {_shown(way.channels)}, none of them with /GDRDMA",
                "every byte is copied through the CPU's memory (F30); «GPU Direct RDMA enabled» proves nothing (F31)",
                "on the node: modprobe nvidia-peermem; nvidia-smi topo -m (GPU and HCA under one PCIe switch?)",
            )
        elif not way.channels and NVLINK_BETWEEN_NODES not in way.local:
            yield Finding(
                "collective-transport-unknown",
                Severity.WARNING,
                (name,),
                f"NCCL {way.version or ''} did not say over what its channels to other nodes go".replace("  ", " "),
                "the sum was right, but a silent fall-back to TCP would look the same (F23)",
                "container.env must not limit NCCL's lines; report this NCCL version as a defect of clusterctl",
            )


def _over_ib(way: Transport) -> bool:
    """IB, or a plugin of that family (IBext, IBext_v8 …); others have no such line."""
    return any(net.startswith("IB") for net in way.channels)


def _has_rdma(inventory: Inventory, facts: ClusterFacts, name: str) -> bool:
    """Whether the node has a port that NCCL was told to use."""
    place = private_address(inventory, name, facts.nodes[name])
    return place is not None and bool(chosen_ports(facts.nodes[name], place.interface))


def _own_memory(facts: ClusterFacts, name: str) -> bool:
    """Whether its GPUs have memory of their own. With unified memory (DGX Spark) there is nothing to copy, and NCCL
    never says GDRDMA (F31)."""
    gpus = facts.nodes[name].gpus
    return isinstance(gpus, tuple) and any(gpu.memory_total_mib is not None for gpu in gpus)


def _shown(channels: Mapping[str, int]) -> str:
    return ", ".join(f"{count} channels via NET/{net}" for net, count in channels.items())


def _interface(inventory: Inventory, facts: ClusterFacts, ran: Collective) -> Iterator[Finding]:
    """NCCL's first connections leave by the interface of network.cidr (F26)."""
    for name, run in ran.nodes.items():
        place = private_address(inventory, name, facts.nodes[name])
        used = run.transport.bootstrap if isinstance(run, NodeRun) else None
        if used is not None and place is not None and used != (place.interface, str(place.address)):
            yield Finding(
                "collective-wrong-interface",
                Severity.WARNING,
                (name,),
                f"NCCL connects through {used[0]} ({used[1]}), not through {place.interface} ({place.address})",
                "the other nodes may not reach that address, or only by a slow way (F26)",
                f"on the node: ip -4 addr show dev {place.interface}; one address an interface",
            )
