"""NVSwitches are set up: the GPUs report it, or their manager runs."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.deployment.gpus import used_gpus
from clusterctl.facts.cluster import ClusterFacts
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.gpus import drivers
from clusterctl.inventory.model import Inventory

NOT_READY = Code(
    name="gpu-fabric",
    severity=ERROR,
    title="The NVLink fabric is not ready",
    runbook="gpu-driver.md",
    seen="not ready in the NVLink fabric: {states}",
    why="CUDA cannot start: error 802, system not yet initialized",
    fix="on the node: systemctl enable --now nvidia-fabricmanager (of exactly the driver's version); "
    "journalctl -u nvidia-fabricmanager; in a guest, ask who runs the host",
    note="States are shown as `GPU N STATE`. The manager's process is looked for only where the GPUs do not report "
    "their state.",
)
NO_MANAGER = NOT_READY.variant(seen="the machine has NVSwitches and nv-fabricmanager does not run")

READY = (None, "Completed, Success", "Completed, N/A", "Completed")
"""What nvidia-smi reports of a GPU without a fabric, and of one that has joined it."""


@rule(Section.NVIDIA, NOT_READY, NO_MANAGER)
def gpu_fabric(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """NVSwitches are set up: the GPUs report it, or their manager runs."""
    for name, nvidia in drivers(inventory, facts):
        gpus = used_gpus(inventory, name, facts.nodes[name])
        waiting = [gpu for gpu in gpus if gpu.fabric not in READY]
        # GPUs before Hopper do not report it; then the manager's process must be there where the switches are.
        silent = bool(gpus) and all(gpu.fabric is None for gpu in gpus)
        if waiting:
            yield NOT_READY.found(name, states=", ".join(f"GPU {gpu.index} {gpu.fabric}" for gpu in waiting))
        elif silent and nvidia.nvswitches is True and nvidia.fabric_manager is False:
            yield NO_MANAGER.found(name)
