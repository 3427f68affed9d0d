"""NVIDIA GPUs: free, whole, usable by containers, and reachable by each other. Pure; one small function a rule."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts, NodeFacts
from clusterctl.facts.fact import Fact, Unknown
from clusterctl.facts.nvidia import KernelModule, NvidiaFacts, Topology
from clusterctl.facts.records import EngineFacts, Gpu
from clusterctl.findings.finding import Finding, Severity
from clusterctl.findings.rules.common import runs_ours
from clusterctl.inventory.model import Inventory

MEMORY_UTILIZATION = 0.9
"""vLLM's default of --gpu-memory-utilization (0.32): so much of the memory must be free at start."""

TRANSLATED = ("DMA", "DMA-FQ")
"""Types of IOMMU groups whose addresses are translated (Linux, Documentation/ABI/testing/sysfs-kernel-iommu_groups)."""


def driver_mismatch(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The driver's library and the loaded kernel module are of one version (F10)."""
    for name, nvidia in _drivers(inventory, facts):
        if nvidia.version_mismatch is None:
            continue
        loaded = nvidia.module.version if isinstance(nvidia.module, KernelModule) else "of an unknown version"
        yield Finding(
            "gpu-driver-mismatch",
            Severity.ERROR,
            (name,),
            f"the loaded kernel module is {loaded}, and nvidia-smi says: {nvidia.version_mismatch}",
            "the driver was upgraded while the old module is loaded: no new process can use a GPU (F10)",
            "reboot the node (or stop everything on its GPUs, then: rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia; "
            "modprobe nvidia)",
        )


def held(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The GPUs that will be used are free (F13). Who holds them is named; nothing is ended."""
    share = _memory_share(inventory)
    for name, node in facts.nodes.items():
        if runs_ours(node, inventory):
            continue
        for gpu in used_gpus(inventory, node):
            total, used = gpu.memory_total_mib, gpu.memory_used_mib
            known = node.gpu_processes if isinstance(node.gpu_processes, tuple) else ()
            holders = [process for process in known if process.gpu_uuid == gpu.uuid]
            too_little = total is not None and used is not None and total - used < share * total
            if not holders and not too_little:
                continue
            use = f"{'?' if used is None else used} of {'?' if total is None else total} MiB"
            who = (
                ", ".join(f"{p.name} (pid {p.pid}{_mib(p.memory_mib)})" for p in holders)
                or "no process that is visible"
            )
            yield Finding(
                "gpu-memory-held",
                Severity.ERROR if too_little else Severity.WARNING,
                (name,),
                f"GPU {gpu.index}: {use} in use, by {who}",
                f"vLLM asks for {share:.0%} of the memory to be free when it starts (F13)",
                "on the node: nvidia-smi; ps -o pid,user,lstart,args -p PID; end what is yours, or use other GPUs",
            )


def _mib(size: int | None) -> str:
    return "" if size is None else f", {size} MiB"


def _memory_share(inventory: Inventory) -> float:
    said = inventory.serve.options.get("gpu-memory-utilization", MEMORY_UTILIZATION)
    return float(said) if isinstance(said, int | float) else MEMORY_UTILIZATION


def divided(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The GPUs are whole and shareable (F14)."""
    for name, node in facts.nodes.items():
        gpus = used_gpus(inventory, node)
        mig = [str(gpu.index) for gpu in gpus if gpu.mig]
        if mig:
            yield Finding(
                "gpu-mig",
                # With one GPU a node its first instance is used; two instances cannot work together (CUDA shows a
                # process one instance only, and NCCL knows no path between them).
                Severity.ERROR if len(gpus) > 1 else Severity.WARNING,
                (name,),
                f"MIG is on for GPU {', '.join(mig)}",
                "a process sees one instance of a divided GPU, and instances cannot work together (F14)",
                f"on the node, with nothing running on it: nvidia-smi -i {','.join(mig)} -mig 0",
            )
        for mode in sorted({gpu.compute_mode for gpu in gpus} - {"Default"}):
            which = ",".join(str(gpu.index) for gpu in gpus if gpu.compute_mode == mode)
            yield Finding(
                "gpu-compute-mode",
                Severity.ERROR if mode == "Prohibited" else Severity.WARNING,
                (name,),
                f"compute mode {mode} on GPU {which}",
                "vLLM's processes share a GPU for moments while they start, and Prohibited lets none compute (F14)",
                f"on the node: nvidia-smi -i {which} -c DEFAULT",
            )


def memory_errors(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """No GPU has met memory errors that it could not correct."""
    for name, node in facts.nodes.items():
        bad = [gpu for gpu in used_gpus(inventory, node) if gpu.ecc_uncorrected]
        if bad:
            shown = ", ".join(f"GPU {gpu.index} {gpu.ecc_uncorrected}" for gpu in bad)
            yield Finding(
                "gpu-memory-errors",
                Severity.WARNING,
                (name,),
                f"uncorrected memory errors since the driver was loaded: {shown}",
                "the process that meets one dies, and with it the whole gang",
                "on the node: nvidia-smi -q -d ECC,ROW_REMAPPER; dmesg | grep -i xid; reset or replace the GPU",
            )


def fabric(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """NVSwitches are set up: the GPUs say so, or their manager runs (F12)."""
    for name, nvidia in _drivers(inventory, facts):
        gpus = used_gpus(inventory, facts.nodes[name])
        waiting = [gpu for gpu in gpus if gpu.fabric not in (None, "Completed, Success", "Completed, N/A", "Completed")]
        # GPUs before Hopper do not tell; then the manager's process must be there where the switches are.
        silent = bool(gpus) and all(gpu.fabric is None for gpu in gpus)
        if waiting:
            seen = ", ".join(f"GPU {gpu.index} {gpu.fabric}" for gpu in waiting)
            seen = f"not ready in the NVLink fabric: {seen}"
        elif silent and nvidia.nvswitches is True and nvidia.fabric_manager is False:
            seen = "the machine has NVSwitches and nv-fabricmanager does not run"
        else:
            continue
        yield Finding(
            "gpu-fabric",
            Severity.ERROR,
            (name,),
            seen,
            "CUDA cannot start: error 802, system not yet initialized (F12)",
            "on the node: systemctl enable --now nvidia-fabricmanager (of exactly the driver's version); "
            "journalctl -u nvidia-fabricmanager; in a guest, ask who runs the host",
        )


def runtime(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The engine can hand GPUs to containers (F17)."""
    for name, nvidia in _drivers(inventory, facts):
        engine = facts.nodes[name].engine
        if not isinstance(engine, EngineFacts):
            continue
        snap = engine.data_root.startswith("/var/snap/")
        # Docker knows `--gpus` by the hook in its PATH, newer ones by CDI; the runtime comes from the same package.
        # A snap's engine sees only what is inside the snap.
        outside = False if snap else nvidia.hook is True or nvidia.cdi is True
        if outside or any("nvidia" in runtime for runtime in engine.runtimes):
            continue
        yield Finding(
            "gpu-runtime-missing",
            Severity.ERROR,
            (name,),
            f"the engine has no NVIDIA runtime (it has: {', '.join(engine.runtimes)})"
            + ("; it is Docker's snap, which does not see one that is installed on the node" if snap else ""),
            'the engine refuses: could not select device driver "" with capabilities: [[gpu]] (F17)',
            "install nvidia-container-toolkit on the node, then: nvidia-ctk runtime configure --runtime=docker; "
            "systemctl restart docker; instead of the snap, install Docker Engine from docker.com",
        )


def lost_on_reload(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """A `systemctl daemon-reload` does not take the GPUs from a running container (F18)."""
    for name, nvidia in _drivers(inventory, facts):
        node = facts.nodes[name]
        # Without systemd nothing reloads; with CDI the devices are the container's own, and survive.
        exposed = isinstance(node.engine, EngineFacts) and node.engine.cgroup_driver == "systemd"
        if exposed and node.system.systemd is True and nvidia.char_links is False and nvidia.cdi is not True:
            yield Finding(
                "gpu-lost-on-reload",
                Severity.WARNING,
                (name,),
                "the engine's cgroup driver is systemd, and /dev/char has no links to the NVIDIA devices",
                "after a systemctl daemon-reload the container loses its GPUs: Failed to initialize NVML: Unknown "
                "Error (F18)",
                "on the node: nvidia-ctk system create-dev-char-symlinks --create-all (for every boot: as a udev rule)",
            )


def isolation(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """On bare metal, PCI traffic between GPUs (and to HCAs) is not sent through the root complex or an IOMMU (F15)."""
    for name, nvidia in _drivers(inventory, facts):
        node = facts.nodes[name]
        gpus = used_gpus(inventory, node)
        if node.system.virtual is not False or not _needs_pci(node, nvidia, len(gpus)):
            continue
        iommu = {} if isinstance(nvidia.iommu, Unknown) else nvidia.iommu
        translated = sorted({kind for kind in iommu.values() if kind in TRANSLATED})
        bridges = nvidia.acs_bridges if isinstance(nvidia.acs_bridges, int) else 0
        if not translated and not bridges:
            continue
        seen = [f"the IOMMU translates the GPUs' addresses ({', '.join(translated)})"] if translated else []
        seen += [f"{bridges} PCI bridges have access control (ACS) on"] if bridges else []
        yield Finding(
            "pci-isolation",
            Severity.WARNING,
            (name,),
            " and ".join(seen),
            "GPUs that talk over PCIe then hang in NCCL's start, or crawl (F15)",
            "boot with iommu=pt, and switch ACS off in the firmware, or: setpci -s BRIDGE ECAP_ACS+0x6.w=0000 "
            "(bare metal only); to see whether it matters: NCCL_P2P_DISABLE=1 in container.env",
        )


def _needs_pci(node: NodeFacts, nvidia: NvidiaFacts, gpus: int) -> bool:
    """Whether GPUs reach each other, or an HCA, over PCIe: NVLink is not concerned."""
    pairs = nvidia.topology.without_nvlink(gpus) if isinstance(nvidia.topology, Topology) else ()
    hca = isinstance(node.rdma, tuple) and any(port.active for port in node.rdma)
    return bool(pairs) or hca


def unread(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """What of the driver could not be read, and so was not checked."""
    if inventory.accelerator.kind != "nvidia":
        return
    for name, node in facts.nodes.items():
        if isinstance(node.gpus, Unknown):
            continue  # said already, as an error
        asked: dict[str, Fact[object]] = {"processes on the GPUs": node.gpu_processes, "the driver": node.nvidia}
        if isinstance(node.nvidia, NvidiaFacts):
            asked |= {"the kernel module": node.nvidia.module, "the topology": node.nvidia.topology}
            asked |= {"PCI access control": node.nvidia.acs_bridges}
        lost = [f"{what}: {fact.reason}" for what, fact in asked.items() if isinstance(fact, Unknown)]
        if lost:
            yield Finding(
                "gpu-state-unknown",
                Severity.WARNING,
                (name,),
                f"could not be checked: {'; '.join(lost)}",
                "what could not be read is not known to be right",
                "log in to the node, repeat what failed (named above) to see why, then run clusterctl check again",
            )


def used_gpus(inventory: Inventory, node: NodeFacts) -> tuple[Gpu, ...]:
    """The GPUs that the container will be given: the first per_node, by index; none where they are not NVIDIA's."""
    if inventory.accelerator.kind != "nvidia" or not isinstance(node.gpus, tuple):
        return ()
    wanted = inventory.accelerator.per_node
    return node.gpus if wanted == "auto" else node.gpus[:wanted]


def _drivers(inventory: Inventory, facts: ClusterFacts) -> Iterator[tuple[str, NvidiaFacts]]:
    if inventory.accelerator.kind == "nvidia":
        for name, node in facts.nodes.items():
            if isinstance(node.nvidia, NvidiaFacts):
                yield name, node.nvidia
