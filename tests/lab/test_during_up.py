"""Faults while `up` runs: what it says is true, the next command repairs it, and nothing is left.

Some of many: benchmarks/faults_at_random.py has every fault in every phase, and dice.
"""

from __future__ import annotations

import pytest

from clusterctl.lab.image import cache

from .conftest import Rehearsal
from .during_up import Chosen, faults, run_one

pytestmark = [pytest.mark.lab, pytest.mark.starts]

CASES = {
    Chosen("operator killed -9", "containers", 0.1, "down"): -9,
    Chosen("node2: power off", "Ray", 0.3, "down"): 1,
    Chosen("node1: SSH cut", "loading", 0.3, "down"): 1,
    Chosen("node1: partition", "Ray", 0.6, "down"): 1,
    Chosen("node2: engine stopped", "trying", 0.1, "down"): 1,
    Chosen("node2: disk full", "trying", 0.1, "down"): 1,
    Chosen("node2: image removed", "trying", 0.1, "down"): 1,
    Chosen("a down at the same time", "containers", 0.1, "down"): None,
}
"""What happens → what `up` ends with (None: as it likes, as long as it is true)."""


@pytest.mark.parametrize("chosen", CASES, ids=lambda chosen: f"{chosen.fault} in {chosen.phase}")
def test_nothing_that_is_said_is_untrue_and_nothing_is_left(clean: Rehearsal, chosen: Chosen) -> None:
    changes = {"accelerator.per_node": 1, "timeouts.connect_s": 5, "serve.api_key": "off"}
    inventory = clean.clusterctl.with_changes("faulty", changes).inventory
    outcome = run_one(clean.lab, inventory, faults(clean.lab.name, cache.reference())[chosen.fault], chosen)
    print(outcome)
    assert not outcome.not_injected
    assert outcome.lies == ()
    assert CASES[chosen] in (None, outcome.up_code)
    assert outcome.up_s < 120, "a cut cable is noticed, whatever the deadlines of the start are"
