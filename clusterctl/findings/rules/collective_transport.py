"""The all-reduce used RDMA where it should, and not through the CPU's memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from clusterctl.deployment.rdma import ports_of_network
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.collective import NodeRun
from clusterctl.facts.fact import Unknown
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.gpus import own_memory
from clusterctl.findings.topics.rdma import UNLESS_REQUIRED, severity_of_missing
from clusterctl.inventory.model import Inventory
from clusterctl.signatures.nccl import Transport

NVLINK_BETWEEN_NODES = "P2P/MNNVL"
"""The path of machines whose NVLink spans nodes (GB200 NVL72); their channels use no network."""

OVER_TCP = Code(
    name="collective-over-tcp",
    severity=WARNING,
    unless=UNLESS_REQUIRED,
    title="TCP in place of RDMA",
    runbook="collective.md",
    seen="NCCL used TCP: {channels}",
    why="the node has RDMA, and rdma is {mode}: TCP is several times slower",
    fix="clusterctl check: RDMA ports, /dev/infiniband and the image's libraries",
    note="Channels are shown as `N channels via NET/Socket`. Where a line of NCCL's log explains it, the line is "
    "shown, and the fix is the explained cause's.",
)
OVER_TCP_EXPLAINED = OVER_TCP.variant(seen='NCCL used TCP: {channels}; "{line}"', fix="{explained_fix}")
WITHOUT_GPUDIRECT = Code(
    name="collective-without-gpudirect",
    severity=WARNING,
    title="RDMA without GPUDirect",
    runbook="collective.md",
    seen="NCCL uses RDMA without GPUDirect: {channels}, none of them with /GDRDMA",
    why='every byte is copied through the CPU\'s memory; "GPU Direct RDMA enabled" proves nothing',
    fix="on the node: modprobe nvidia-peermem; nvidia-smi topo -m (GPU and HCA under one PCIe switch?)",
    note="Channels are shown as `N channels via NET/IB`.",
)
UNKNOWN = Code(
    name="collective-transport-unknown",
    severity=WARNING,
    title="The path is not known",
    runbook="collective.md",
    seen="NCCL{_version} did not report what its channels to other nodes use",
    why="the sum was right, but a silent fall-back to TCP would look the same",
    fix="container.env must not limit NCCL's lines; report this NCCL version as a bug in clusterctl",
)


@rule(Section.COLLECTIVE, OVER_TCP, OVER_TCP_EXPLAINED, WITHOUT_GPUDIRECT, UNKNOWN)
def collective_transport(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The all-reduce used RDMA where it should, and not through the CPU's memory."""
    ran = facts.deep.collective if facts.deep is not None else None
    if ran is None or isinstance(ran, Unknown) or ran.backend != "nccl" or len(ran.nodes) < 2:
        return
    for name, run in ran.nodes.items():
        if not isinstance(run, NodeRun) or not run.reduced:
            continue
        path = run.transport
        if path.over_tcp and _wants_rdma(inventory, facts, name):
            yield _over_tcp(inventory, name, run)
        elif _over_ib(path) and path.gdrdma == 0 and own_memory(facts.nodes[name]):
            yield WITHOUT_GPUDIRECT.found(name, channels=_shown(path.channels))
        elif not path.channels and NVLINK_BETWEEN_NODES not in path.local:
            yield UNKNOWN.found(name, _version=f" {path.version}" if path.version else "")


def _over_tcp(inventory: Inventory, name: str, run: NodeRun) -> Finding:
    explained = next((c for c in run.causes if c.failure_mode in ("F22", "F23", "F24", "F25")), None)
    return (OVER_TCP_EXPLAINED if explained else OVER_TCP).found(
        name,
        severity=severity_of_missing(inventory),
        channels=_shown(run.transport.channels),
        mode=inventory.rdma,
        line=explained.line[-120:] if explained else "",
        explained_fix=explained.fix if explained else "",
    )


def _over_ib(path: Transport) -> bool:
    """IB, or a plugin of that family (IBext, IBext_v8 …); others have no such line."""
    return any(net.startswith("IB") for net in path.channels)


def _wants_rdma(inventory: Inventory, facts: ClusterFacts, name: str) -> bool:
    """Whether RDMA is required, or wanted and the node has a port that NCCL was told to use."""
    if inventory.rdma != "auto":
        return inventory.rdma == "required"
    return bool(ports_of_network(inventory, name, facts).used)


def _shown(channels: Mapping[str, int]) -> str:
    return ", ".join(f"{count} channels via NET/{net}" for net, count in channels.items())
