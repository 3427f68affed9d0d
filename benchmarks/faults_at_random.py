"""Random faults during `up`, then `status`, then `down` or another `up`: every word is held against the truth.

    python benchmarks/faults_at_random.py --runs 100 --seed 1 [--first 0] [--minutes 60] [--way "DP2 over nodes, mp"]

The same seed gives the same faults in the same phases; run number N is the same whatever came before it. What is served
is a pipeline over Ray, or --way (tests/lab/modes.py). Needs root; makes a lab of its own (two nodes) and removes it.
A run in which there was nothing to break at that moment (a process that does not exist yet, a phase that `up` did not
come to) is "not injected": it says nothing about the fault, and is not counted as one. Exit code 1 when clusterctl lied
or left something, or when `up` failed although nothing had been broken.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from clusterctl.lab import lab as labs
from clusterctl.lab.image import cache
from clusterctl.lab.lab import LabOptions
from tests.lab.conftest import Clusterctl
from tests.lab.during_up import MP_PHASES, PHASES, Chosen, Outcome, choose, faults, run_one
from tests.lab.modes import CELLS


def main() -> int:
    """Run, print a line for each run, and count."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--matrix", action="store_true", help="not at random: every fault in the phases that matter")
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after so many minutes")
    parser.add_argument("--name", default="random", help="the lab's name")
    parser.add_argument("--way", default="PP2 over nodes, Ray", choices=CELLS, help="what is served")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored after nohup or `&`, and that is inherited
    labs.down(options.name, say=print)
    with TemporaryDirectory() as folder:
        lab = labs.up(options.name, LabOptions(nodes=2, gpus=1, directory=Path(folder)), say=print)
        try:
            outcomes = list(runs(lab, options))
        finally:
            labs.down(options.name, say=print)
    lied = [outcome for outcome in outcomes if outcome.lies]
    missed = sum(bool(outcome.not_injected) for outcome in outcomes)
    print(f"\n{len(outcomes)} runs (seed {options.seed}), {len(outcomes) - missed} faults injected; wrong: {len(lied)}")
    print("exit codes of `up`:", dict(Counter(outcome.up_code for outcome in outcomes)))
    print("states afterwards:", dict(Counter(outcome.state for outcome in outcomes)))
    return 1 if lied else 0


def runs(lab: labs.Lab, options: argparse.Namespace) -> Iterator[Outcome]:
    """One outcome after the other."""
    cell = CELLS[options.way]
    timeouts = {"timeouts.connect_s": 5, "timeouts.ray_s": 120, "timeouts.load_s": 300}
    inventory = cell.clusterctl(lab, Clusterctl(lab.inventory), {"serve.api_key": "off", **timeouts}).inventory
    available = faults(lab.name, cache.reference(), cell.executor)
    began = time.monotonic()
    for number, chosen in islice(enumerate(chosen_runs(options, list(available), cell.executor)), options.first, None):
        if time.monotonic() - began > options.minutes * 60:
            return
        outcome = run_one(lab, inventory, available[chosen.fault], chosen, len(cell.engines))
        print(line(number, outcome), flush=True)
        yield outcome


def chosen_runs(options: argparse.Namespace, names: Sequence[str], executor: str) -> Iterator[Chosen]:
    """What happens in each run."""
    if options.matrix:
        yield from MATRIX
        return
    for number in range(options.first + options.runs):
        dice = random.Random(f"{options.seed}/{number}")  # noqa: S311 (dice)
        yield choose(dice, names, PHASES if executor == "ray" else MP_PHASES)


MATRIX = [
    *(Chosen("operator killed -9", phase, 0.3, "down") for phase in PHASES),
    Chosen("operator killed -9", "loading", 1, "up"),
    *(Chosen("node2: power off", phase, 0.3, "down") for phase in ("checks", "trying", "containers", "Ray", "loading")),
    *(Chosen("node1: power off", phase, 0.3, "down") for phase in ("trying", "containers", "Ray", "workers")),
    Chosen("node2: power off", "warm-up", 0.5, "up"),
    *(Chosen(f"{node}: SSH cut", phase, 0.3, "down") for node in ("node1", "node2") for phase in ("trying", "loading")),
    Chosen("node2: engine stopped", "trying", 0.1, "down"),
    Chosen("node1: engine stopped", "loading", 0.5, "down"),
    Chosen("node2: engine killed -9", "Ray", 0.5, "down"),
    Chosen("node2: disk full", "trying", 0.1, "down"),
    Chosen("node2: image removed", "checks", 0.1, "down"),
    Chosen("node2: image removed", "trying", 0.3, "down"),
    *(Chosen("a second up", phase, 0.3, "down") for phase in ("checks", "loading")),
    *(Chosen("a down at the same time", phase, 0.3, "down") for phase in ("trying", "Ray")),
    Chosen("operator Ctrl-C", "containers", 0.1, "down"),
    Chosen("operator SIGTERM", "Ray", 0.3, "down"),
]
"""Every kind of fault, in the phases in which it hurts differently."""


def line(number: int, outcome: Outcome) -> str:
    """One run."""
    where = outcome.phase + (f" ({outcome.not_injected})" if outcome.not_injected else "")
    verdict = "; ".join(outcome.lies) or ("not injected" if outcome.not_injected else "ok")
    return (
        f"{number:>4} {outcome.fault:<26} in {where:<24} up {outcome.up_code:>4} after {outcome.up_s:>6.1f} s, "
        f"{outcome.state:<10} {outcome.then:<14} {verdict}  {outcome.said[:150]}"
    )


if __name__ == "__main__":
    sys.exit(main())
