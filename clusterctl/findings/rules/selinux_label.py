"""Where SELinux enforces, containers may read the model."""

from __future__ import annotations

from collections.abc import Iterator

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.records import EngineFacts
from clusterctl.findings.code import ERROR, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

READABLE_TYPES = frozenset(
    {"container_file_t", "container_ro_file_t", "container_share_t", "nfs_t", "cifs_t", "fusefs_t"}
)
"""What containers may read: container_selinux(8); those of network file systems by booleans (virt_use_nfs …), which
are not looked at."""
FORBIDS = Code(
    name="selinux-forbids-model",
    severity=ERROR,
    title="SELinux forbids the model",
    runbook="model.md",
    seen="SELinux enforces, and {path} has the label {label}, which containers may not read",
    why="vLLM would end with `Permission denied`, although the files' own permissions are right",
    fix="on the node: semanage fcontext -a -t container_file_t '{path}(/.*)?' && restorecon -R {path}",
    note="Only where the engine itself uses SELinux. It lasts, unlike chcon, which the next relabelling undoes.",
)


@rule(Section.MODEL, FORBIDS)
def selinux_label(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """Where SELinux enforces, containers may read the model."""
    for name, node in facts.nodes.items():
        label = node.system.model_label
        if not isinstance(label, str) or not isinstance(node.engine, EngineFacts):
            continue
        parts = label.split(":")  # user:role:type:level
        if "selinux" in node.engine.confines and len(parts) >= 3 and parts[2] not in READABLE_TYPES:
            yield FORBIDS.found(name, path=inventory.model.path, label=label)
