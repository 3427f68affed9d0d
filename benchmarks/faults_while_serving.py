"""Faults of a cluster that serves, under a steady load, one after the other: what the clients lose, how long the way
back takes, beside a plain start of the same run.

    python benchmarks/faults_while_serving.py [--only TEXT] [--hang-s 20] [--list]

refused: connections to the API's port that were refused, of one every 50 ms; refused_s: from the first to the last of
them. While the head's agent lives there are none; where the fault ends it (its container, its engine or its machine)
they last until it runs again.

Needs root; makes a lab of its own (two nodes, TP=1 x PP=2) and removes it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from clusterctl.lab import lab as labs
from clusterctl.lab.lab import LabOptions
from tests.lab.faults import Load, NotInjectedError, Recovery, suffer, while_serving

NAME = "faults"
RECOVERY_DEADLINE_S = 420


def clusterctl(inventory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ours."""
    argv = [sys.executable, "-m", "clusterctl", "-i", str(inventory), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=900)


def row(result: Recovery, plain_s: float) -> str:
    """One line of the table."""
    beyond = f"{result.recovery_s - plain_s:+.1f}"
    return (
        f"{result.fault:<32}{result.recovery_s:>9.1f}{beyond:>9}{result.outage_s:>9.1f}{result.requests:>9}"
        f"{result.failed:>9}{result.longest_s:>9.1f}{result.refused:>9}{result.refused_s:>10.1f}{result.reset:>7}"
        f"  {'; '.join(result.restarts)}"
    )


def main() -> int:
    """Run the faults and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="only faults whose name contains this (several: a|b)")
    parser.add_argument("--hang-s", type=int, default=20, help="timeouts.hang_s of the cluster (its default is 120)")
    parser.add_argument("--list", action="store_true", help="print the faults' names")
    options = parser.parse_args()
    faults = [f for f in while_serving(NAME).values() if any(part in f.name for part in options.only.split("|"))]
    if options.list:
        print("\n".join(fault.name for fault in faults))
        return 0
    labs.down(NAME, say=print)
    with TemporaryDirectory() as folder:
        lab = labs.up(NAME, LabOptions(nodes=2, gpus=1, directory=Path(folder)), say=print)
        try:
            return run(lab, faults, options.hang_s)
        finally:
            labs.down(NAME, say=print)


def run(lab: labs.Lab, faults: list, hang_s: int) -> int:
    """A start that compiles, one that finds that, then every fault on what it started."""
    data = yaml.safe_load(lab.inventory.read_text())
    data["timeouts"] |= {"canary_interval_s": 2, "hang_s": hang_s}
    data["serve"]["api_key"] = "off"
    inventory = lab.inventory.with_name("faults.yaml")
    inventory.write_text(yaml.safe_dump(data))
    # What vLLM compiled is there after a fault, so the start to compare with is one that finds it too.
    for kind in ("compiles", "plain"):
        came_up = clusterctl(inventory, "up", "--json")
        if came_up.returncode:
            print(came_up.stderr)
            return 1
        summary = json.loads(came_up.stdout)
        plain_s = summary["timings_s"]["total"] - summary["timings_s"]["checks"]
        print(f"a start ({kind}): {plain_s:.1f} s (containers, Ray, loading)", flush=True)
        if kind == "compiles":
            clusterctl(inventory, "down")
    print("refused: connections to the API's port, of one every 50 ms; reset: closed without an answer")
    print(f"canary every 2 s, hang_s {hang_s}\n")
    header = (
        f"{'fault':<32}{'recovery':>9}{'beyond':>9}{'outage':>9}{'requests':>9}{'failed':>9}{'longest':>9}"
        f"{'refused':>9}{'refused_s':>10}{'reset':>7}  restarts"
    )
    print(header, flush=True)
    wrong = 0
    known = 0
    for fault in faults:
        try:
            with Load(summary["endpoint"], summary["model"]) as load:
                result = suffer(lab, fault, load, RECOVERY_DEADLINE_S)
        except (AssertionError, NotInjectedError) as error:
            wrong += 1
            print(
                f"{fault.name:<32} {'not injected: ' if isinstance(error, NotInjectedError) else ''}{error}", flush=True
            )
            print(clusterctl(inventory, "status").stdout)
            if clusterctl(inventory, "up").returncode:
                return 1
            continue
        status = json.loads(clusterctl(inventory, "status", "--json").stdout)
        every = sorted(
            (r["t"], f"{n['name']} {r['scope']} {r['reason']}")
            for n in status["nodes"]
            for c in n["containers"]
            for r in c["restarts"]
        )
        new = tuple(text for _, text in every[known:])
        known = len(every)
        if status["state"] != "healthy" or len(load.failed()) > result.failed:
            wrong += 1
            print(f"{fault.name}: wrong: {status['state']}, {len(load.failed())} of all requests failed", flush=True)
        print(row(Recovery(**{**vars(result), "restarts": new}), plain_s), flush=True)
        time.sleep(65)  # a minute of service, after which a failure counts as the first again
    ended = clusterctl(inventory, "down")
    print(ended.stdout, ended.stderr)
    return 1 if wrong or ended.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
