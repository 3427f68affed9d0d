"""The machines: clocks, disks, memory, the node's own name, the engine's limits. Pure; one small function a rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median

from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Fact, Unknown
from clusterctl.facts.kernel_net import LOOPBACK
from clusterctl.facts.records import EngineFacts
from clusterctl.facts.system import UNLIMITED, Clock, EngineProcess, Filesystem
from clusterctl.findings.finding import Finding, Severity
from clusterctl.findings.rules.common import runs_ours
from clusterctl.inventory.model import Inventory, Ulimit

MAX_CLOCK_SKEW_S = 1.0
"""Beyond this PyTorch's time-outs were seen to misfire (F7: awsome-distributed-ai#180)."""

MIB = 1 << 20
GIB = 1 << 30

DATA_ROOT_ERROR_BYTES = 512 * MIB
"""The container's log (256 MiB, planning/container.py) and what Ray and the compiler write at start do not fit below
this."""
DATA_ROOT_WARNING_BYTES = 5 * GIB
"""Below this a compile cache (torch inductor, Triton: 1-2 GiB for a large model), Ray's logs (100 MB a process,
rotated) and a core file soon fill it."""
TMP = "/tmp"  # noqa: S108 (a place that is looked at, not written to)
TMP_WARNING_BYTES = 64 * MIB
"""Only small files are written to the node's own /tmp: the container's is below the data root."""
FEW_INODES = 10_000
"""Ray and the compile caches write some thousands of files at a start."""

RAY_MEMORY_THRESHOLD = 0.95
"""Used memory at which Ray begins to kill workers (F9; RAY_memory_usage_threshold, Ray 2.60)."""
WORKER_BYTES = 2 * GIB
"""Memory of the machine for one worker process before it holds weights: Python, torch, vLLM and a CUDA context take
1 to 3 GiB. An estimate, hence a warning."""


def clocks(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The nodes' clocks agree (F7). They are compared with each other, not with the operator's."""
    clocks = {name: node.system.clock for name, node in facts.nodes.items() if isinstance(node.system.clock, Clock)}
    if len(clocks) < 2:
        return
    slow = min(clocks.values(), key=lambda clock: clock.offset_s + clock.uncertainty_s)
    fast = max(clocks.values(), key=lambda clock: clock.offset_s - clock.uncertainty_s)
    # Only what is certain: the smallest distance that the readings allow.
    apart = (fast.offset_s - fast.uncertainty_s) - (slow.offset_s + slow.uncertainty_s)
    if apart <= MAX_CLOCK_SKEW_S:
        return
    middle = median(clock.offset_s for clock in clocks.values())
    odd = tuple(n for n, clock in clocks.items() if abs(clock.offset_s - middle) - clock.uncertainty_s > apart / 4)
    shown = ", ".join(f"{n} {clocks[n].offset_s - slow.offset_s:+.1f} s" for n in clocks)
    yield Finding(
        "clock-skew",
        Severity.WARNING,
        odd,
        f"clocks are at least {apart:.1f} s apart: {shown} (against the slowest)",
        "time-outs of PyTorch and Ray compare times of different nodes, and logs cannot be put in order (F7)",
        "on each node: timedatectl set-ntp true; then chronyc tracking (or timedatectl timesync-status)",
    )


def disks(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Room where the engine and the node write (F8). The model's own file system may be full: it is only read."""
    for name, node in facts.nodes.items():
        system = node.system
        if isinstance(node.engine, EngineFacts):
            root = system.filesystem(node.engine.data_root)
            if root is not None:
                yield from _full(name, root, "the engine's data root", DATA_ROOT_ERROR_BYTES, DATA_ROOT_WARNING_BYTES)
        tmp = system.filesystem(TMP)
        if tmp is not None:
            yield from _full(name, tmp, "temporary files", 0, TMP_WARNING_BYTES)


def _full(node: str, disk: Filesystem, use: str, error_bytes: int, warning_bytes: int) -> Iterator[Finding]:
    no_inodes = disk.total_inodes > 0 and disk.free_inodes < FEW_INODES
    if disk.free_bytes >= warning_bytes and not no_inodes:
        return
    if disk.free_bytes < warning_bytes:
        left = f"{_size(disk.free_bytes)} of {_size(disk.total_bytes)} free"
    else:
        left = f"{disk.free_inodes} of {disk.total_inodes} inodes free"
    yield Finding(
        "disk-full",
        Severity.ERROR if disk.free_bytes < error_bytes else Severity.WARNING,
        (node,),
        f"{disk.path} ({use}) has {left} ({disk.type})",
        "the container's log, Ray's session files and compile caches are written there (F8)",
        f"on the node: df -h {disk.path}; docker system df; docker image prune (removes images that nothing uses)",
    )


def memory(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Enough free memory for the workers, below the point at which Ray kills them (F9)."""
    threshold = _ray_threshold(inventory)
    for name, node in facts.nodes.items():
        total, available = node.system.memory_total_bytes, node.memory_available_bytes
        if not isinstance(total, int) or not isinstance(available, int) or runs_ours(node, inventory):
            continue
        spare = available - int(total * (1 - threshold))
        wanted = WORKER_BYTES * _workers(inventory, node)
        if spare >= wanted:
            continue
        yield Finding(
            "memory-low",
            Severity.ERROR if spare <= 0 else Severity.WARNING,
            (name,),
            f"{_size(available)} of {_size(total)} memory available; Ray kills workers when less than "
            f"{_size(int(total * (1 - threshold)))} is left, and the workers here take about {_size(wanted)}",
            "Ray's memory monitor kills workers at 95% used memory (F9)",
            "on the node: ps -eo pid,user,rss,args --sort=-rss | head; on unified memory also: "
            "sync; echo 3 > /proc/sys/vm/drop_caches",
        )


def _ray_threshold(inventory: Inventory) -> float:
    try:
        return float(inventory.container.env.get("RAY_memory_usage_threshold", RAY_MEMORY_THRESHOLD))
    except ValueError:
        return RAY_MEMORY_THRESHOLD


def _workers(inventory: Inventory, node: NodeFacts) -> int:
    declared = inventory.accelerator.per_node
    if isinstance(declared, int):
        return declared
    return len(node.gpus) if isinstance(node.gpus, tuple) else 1


def own_name(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The node's name resolves to an address that others could use (F5)."""
    for name, node in facts.nodes.items():
        resolved = node.system.own_addresses
        if isinstance(resolved, Unknown) or (resolved and not all(address in LOOPBACK for address in resolved)):
            continue
        seen = ", ".join(str(address) for address in resolved or ()) or "nothing"
        yield Finding(
            "hostname-loopback",
            Severity.WARNING,
            (name,),
            f"the host name {node.hostname} resolves to {seen} on the node",
            "Gloo binds to what the name resolves to; clusterctl names the interface (GLOO_SOCKET_IFNAME) so that it "
            "does not, but whatever else asks for the node's own address gets one that no other node can reach (F5)",
            f"in /etc/hosts on the node: its address in {inventory.network.cidr} with its name, not 127.0.x.x",
        )


def memlock(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The engine can give the container the locked memory that the inventory asks for (F22)."""
    asked = inventory.container.ulimits.get("memlock")
    for name, node in facts.nodes.items():
        process = node.system.engine_process
        if not isinstance(process, EngineProcess) or asked is None or process.may_raise_limits:
            continue
        hard = asked.hard if isinstance(asked, Ulimit) else asked
        limit = process.memlock_hard_bytes
        if limit == UNLIMITED or 0 <= hard <= limit:
            continue
        yield Finding(
            "memlock-refused",
            Severity.ERROR,
            (name,),
            f"container.ulimits asks for memlock {hard}, the engine (pid {process.pid}) is limited to {limit} bytes "
            "and may not raise it (no CAP_SYS_RESOURCE)",
            "the engine refuses to start the container: error setting rlimit type 8; RDMA needs locked memory (F22)",
            "on the node: systemctl edit docker, then [Service] LimitMEMLOCK=infinity, and restart it; or, "
            "without RDMA, leave memlock out of container.ulimits",
        )


def unread(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """What of a machine could not be read, and so was not checked."""
    for name, node in facts.nodes.items():
        system = node.system
        asked: Mapping[str, Fact[object]] = {
            "the clock": system.clock,
            "free disk space": _data_root(node),
            "memory": _first_unknown(system.memory_total_bytes, node.memory_available_bytes),
            "what the host name resolves to": system.own_addresses,
            "the engine's limits": system.engine_process if "memlock" in inventory.container.ulimits else None,
        }
        lost = [f"{what}: {fact.reason}" for what, fact in asked.items() if isinstance(fact, Unknown)]
        if lost:
            yield Finding(
                "system-unknown",
                Severity.WARNING,
                (name,),
                f"could not be checked: {'; '.join(lost)}",
                "what could not be read is not known to be right",
                "log in to the node, repeat what failed (named above) to see why, then run clusterctl check again",
            )


def _data_root(node: NodeFacts) -> Fact[Filesystem]:
    if isinstance(node.system.filesystems, Unknown):
        return node.system.filesystems
    if not isinstance(node.engine, EngineFacts):
        return None
    return node.system.filesystem(node.engine.data_root) or Unknown(f"{node.engine.data_root} was not looked at")


def _first_unknown(*facts: Fact[object]) -> Unknown | None:
    return next((fact for fact in facts if isinstance(fact, Unknown)), None)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.1f} GiB" if size_bytes >= GIB else f"{size_bytes / MIB:.0f} MiB"
