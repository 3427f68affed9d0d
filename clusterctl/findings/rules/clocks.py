"""The nodes' clocks agree. They are compared with each other, not with the operator's."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from clusterctl.facts.cluster import ClusterFacts
from clusterctl.facts.system import Clock
from clusterctl.findings.code import WARNING, Code
from clusterctl.findings.finding import Finding
from clusterctl.findings.rule import rule
from clusterctl.findings.section import Section
from clusterctl.inventory.model import Inventory

MAX_CLOCK_SKEW_S = 1.0
"""Beyond this PyTorch's time-outs were seen to misfire (failure-modes.md, F7: awsome-distributed-ai#180)."""

SKEW = Code(
    name="clock-skew",
    severity=WARNING,
    title="Clocks differ",
    runbook="machine.md",
    seen="clocks are at least {distance} s apart: {offsets} (against the slowest)",
    why="time-outs of PyTorch and Ray compare times of different nodes, and logs cannot be put in order",
    fix="on each node: timedatectl set-ntp true; then chronyc tracking (or timedatectl timesync-status)",
    note="Only what is certain: the time that the network took is allowed for. Nodes are compared with each other, not "
    "with your own clock.",
)


@rule(Section.MACHINE, SKEW)
def clocks(inventory: Inventory, facts: ClusterFacts) -> Iterator[Finding]:
    """The nodes' clocks agree. They are compared with each other, not with the operator's."""
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
    odd = [n for n, clock in clocks.items() if abs(clock.offset_s - middle) - clock.uncertainty_s > apart / 4]
    offsets = ", ".join(f"{n} {clocks[n].offset_s - slow.offset_s:+.1f} s" for n in clocks)
    yield SKEW.found(*odd, distance=f"{apart:.1f}", offsets=offsets)
