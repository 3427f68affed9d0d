"""`clusterctl up` to the first token, against a good hand-written script, side by side in one run on the lab.

    python benchmarks/up_vs_script.py [--rounds 3] [--gpus 1]

The two take turns (A B A B …) on the same two lab nodes, with the same image, model, flags and environment, so that a
machine whose speed drifts slows both. Prints medians phase by phase and the ratio of the totals. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from clusterctl.deployment.resolve import resolve
from clusterctl.facts.gather import gather
from clusterctl.hosts.host import Hosts
from clusterctl.inventory.load import load_inventory
from clusterctl.lab import lab as labs
from clusterctl.lab.lab import LabOptions
from clusterctl.modes.place import Deployment
from clusterctl.modes.ray import ray_argv
from clusterctl.planning.files import environment

SCRIPT = Path(__file__).with_name("handwritten.sh")
PHASES = ("checks", "containers", "ray", "load")
LAB = "bench"


def main() -> None:
    """Run the rounds and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gpus", type=int, default=1)
    arguments = parser.parse_args()
    labs.down(LAB, say=_say)
    with tempfile.TemporaryDirectory() as directory:
        lab = labs.up(LAB, LabOptions(nodes=2, gpus=arguments.gpus, directory=Path(directory)), say=_say)
        try:
            _clusterctl(lab.inventory)  # not measured: it compiles what both then find on the nodes
            rounds = [_round(lab.inventory, number) for number in range(arguments.rounds)]
        finally:
            labs.down(LAB, say=_say)
    _print(rounds)


Times = Mapping[str, float]


def _round(inventory: Path, number: int) -> tuple[Times, Times]:
    """One turn of each; who begins alternates, so that neither always finds the warmer cache."""
    runs = {"clusterctl": _clusterctl, "script": _script}
    order = list(runs) if number % 2 == 0 else list(reversed(runs))
    times = {name: runs[name](inventory) for name in order}
    _say(
        f"round {number + 1}: clusterctl {times['clusterctl']['total']:.1f} s, script {times['script']['total']:.1f} s"
    )
    return times["clusterctl"], times["script"]


def _clusterctl(inventory: Path) -> Times:
    command = [sys.executable, "-m", "clusterctl", "-i", str(inventory)]
    began = time.monotonic()
    done = subprocess.run([*command, "up", "--json"], check=True, stdout=subprocess.PIPE)
    total = time.monotonic() - began
    timings = json.loads(done.stdout)["timings_s"]
    subprocess.run([*command, "down"], check=True, stdout=subprocess.DEVNULL)
    known = {"containers": timings["containers"], "ray": timings["ray"], "load": timings["loading"]}
    # Everything else of the process (Python's start, SSH logins, the facts, the last completion) counts as checks.
    return {"checks": total - sum(known.values()), **known, "total": total}


def _script(inventory: Path) -> Times:
    variables = {**os.environ, **_variables(inventory)}
    began = time.monotonic()
    done = subprocess.run([SCRIPT, "up"], check=True, stdout=subprocess.PIPE, text=True, env=variables)
    total = time.monotonic() - began
    marks = {phase: float(t) for phase, t in (line.split() for line in done.stdout.splitlines())}
    subprocess.run([SCRIPT, "down"], check=True, env=variables)
    return {
        "checks": marks["checks"] - marks["start"],
        "containers": marks["containers"] - marks["checks"],
        "ray": marks["ray"] - marks["containers"],
        "load": marks["token"] - marks["ray"],
        "total": total,
    }


def _variables(path: Path) -> Mapping[str, str]:
    """The script's settings, from the same inventory: the same flags, environment and ports."""
    asked = load_inventory(path)
    # The script serves over Ray, as `executor: auto` does on two nodes with an image that has it.
    inventory = asked.model_copy(update={"serve": asked.serve.model_copy(update={"executor": "ray"})})
    with Hosts(inventory) as hosts:
        deployment = resolve(inventory, gather(hosts, inventory))
    head = deployment.head
    workers = [place for place in deployment.places.values() if place.role == "worker"]
    options = {
        **inventory.serve.options,
        "served-model-name": inventory.served_name,
        "host": str(head.address),
        "port": inventory.serve.port,
        "tensor-parallel-size": deployment.layout.tensor_parallel,
        "pipeline-parallel-size": deployment.layout.pipeline_parallel,
        "distributed-executor-backend": "ray",
    }
    ssh = (
        f"-i {inventory.ssh.key} -o UserKnownHostsFile={inventory.ssh.known_hosts} -o BatchMode=yes "
        "-o ControlMaster=auto -o ControlPersist=60 -o ControlPath=/tmp/bench-%r@%h:%p"
    )
    return {
        "NAME": "bench-script",
        "HEAD": str(head.address),
        "WORKERS": " ".join(str(place.address) for place in workers),
        "SSH_OPTIONS": ssh,
        "IMAGE": inventory.container.image,
        "MODEL": inventory.model.path,
        "SERVED": inventory.served_name,
        "PORT": str(inventory.serve.port),
        "GCS_PORT": str(inventory.ray.ports.gcs),
        "EXPECTED": str(len(inventory.nodes)),
        "HEAD_RUN": _docker_options(deployment, head.name),
        "WORKER_RUN": _docker_options(deployment, workers[0].name),
        "HEAD_RAY": shlex.join(ray_argv(deployment, head)[1:]),
        "WORKER_RAY": shlex.join(ray_argv(deployment, workers[0])[1:]),
        "SERVE_OPTIONS": shlex.join([inventory.model.path, *(f"--{name}={value}" for name, value in options.items())]),
    }


def _docker_options(deployment: Deployment, node: str) -> str:
    inventory = deployment.inventory
    variables = {
        **environment(inventory, deployment, deployment.places[node]),
        "RAY_AUTH_TOKEN": "0" * 64,
    }
    variables.pop("RAY_AUTH_TOKEN_PATH")
    return shlex.join(
        [
            "--network=host",
            "--ipc=host",
            "--cap-add=IPC_LOCK",
            *(f"--ulimit={name}={limit}" for name, limit in inventory.container.ulimits.items()),
            f"--volume={inventory.model.path}:{inventory.model.path}:ro",
            *(f"--volume={volume}" for volume in inventory.container.volumes),
            *(f"--env={name}={value}" for name, value in variables.items()),
        ]
    )


def _print(rounds: list[tuple[Times, Times]]) -> None:
    print(f"{'phase':<12}{'clusterctl':>12}{'script':>12}{'ratio':>8}   (medians of {len(rounds)} rounds, seconds)")
    for phase in (*PHASES, "total"):
        ours, theirs = (statistics.median(pair[side][phase] for pair in rounds) for side in (0, 1))
        print(f"{phase:<12}{ours:>12.2f}{theirs:>12.2f}{ours / theirs if theirs else 0:>8.3f}")
    ratios = [ours["total"] / theirs["total"] for ours, theirs in rounds]
    median = statistics.median(ratios)
    print(f"ratio of totals, pair by pair: median {median:.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
