"""A `systemctl daemon-reload` does not take the GPUs from a running container."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.records import EngineFacts
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.findings.topics.gpus import drivers
from clusterctl.inventory.model import Inventory

LOST = Code(
    name="gpu-lost-on-reload",
    severity=WARNING,
    title="GPUs are lost when systemd reloads",
    runbook="gpu-driver.md",
    seen="the engine's cgroup driver is systemd, and /dev/char has no links to the NVIDIA devices",
    why="after a systemctl daemon-reload the container loses its GPUs: Failed to initialize NVML: Unknown Error",
    fix="on the node: nvidia-ctk system create-dev-char-symlinks --create-all (for every boot: as a udev rule)",
)


@rule(Section.NVIDIA, LOST)
def gpu_reload(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """A `systemctl daemon-reload` does not take the GPUs from a running container."""
    for name, nvidia in drivers(inventory, facts):
        node = facts.nodes[name]
        # Without systemd nothing reloads; with CDI the devices are the container's own, and survive.
        exposed = isinstance(node.engine, EngineFacts) and node.engine.cgroup_driver == "systemd"
        if exposed and node.system.systemd is True and nvidia.char_links is False and nvidia.cdi is not True:
            yield LOST.found(name)
