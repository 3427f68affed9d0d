"""The ways to serve without Ray, for real: the same log-probabilities, a rank that is killed under load, nothing left.

Each is one start. All ways, and all that may happen to them: benchmarks/modes.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .conftest import Ran, Rehearsal
from .during_up import left_behind
from .faults import CLIENTS, Load, signal_process
from .modes import CELLS, TOLERANCE, Cell, apart, logprobs, restarts

pytestmark = [pytest.mark.lab, pytest.mark.starts]

RECOVERY_DEADLINE_S = 400

TRIED = ("PP2 over nodes, mp", "DP2 over nodes, mp", "DP2, one node")


@pytest.fixture
def emptied(rehearsal: Rehearsal) -> Iterator[Rehearsal]:
    """The lab, on which nothing is left afterwards, whatever the test did."""
    yield rehearsal
    assert rehearsal.clusterctl("down").code == 0


@pytest.mark.parametrize("cell", [CELLS[name] for name in TRIED], ids=TRIED)
def test_it_serves_heals_and_leaves_nothing(emptied: Rehearsal, cell: Cell) -> None:
    lab, engines = emptied.lab, [list(nodes) for nodes in cell.engines]
    clusterctl = cell.clusterctl(lab, emptied.clusterctl)

    up = clusterctl("up", "--json")
    assert up.code == 0
    summary = up.json()
    assert summary["executor"] == cell.executor
    assert [engine["nodes"] for engine in summary["engines"]] == engines
    assert clusterctl("plan", "--detailed-exitcode").code == 0

    key = clusterctl("api-key").out.strip()
    assert apart(logprobs(summary["endpoint"], summary["model"], key), cell.reference) <= TOLERANCE

    node, process = cell.workers[0]
    with Load(summary["endpoint"], summary["model"], key) as load:
        load.wait(lambda: len(load.asked) > CLIENTS, 60, "requests before the fault")
        signal_process(lab, node, "KILL", process)
        # With several engines the others may go on for seconds, so requests alone do not tell that it was noticed.
        load.wait(lambda: healed(clusterctl("status", "--json")), RECOVERY_DEADLINE_S, "recovery")
    status = clusterctl("status", "--json")
    assert status.code == 0
    assert all(each["in_ray"] is None for each in status.json()["nodes"])
    assert [engine["nodes"] for engine in status.json()["engines"]] == engines

    assert clusterctl("down").code == 0
    assert left_behind(lab, lab.name) == []


def healed(status: Ran) -> bool:
    """Whether the cluster serves, and has started something anew before."""
    return status.code == 0 and restarts(status.json()) > 0
