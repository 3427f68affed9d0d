"""`clusterctl check` on many ssh-only lab nodes, against its own probe run by pssh and against `ansible -m setup`.

    python benchmarks/check_vs_pssh.py [--nodes 32] [--rounds 5]

All take turns in one run on the same nodes (A B C A B C …), each reading every node at once. Prints medians and the
ratios. Needs root, Debian's `pssh`, and `ansible-core` from PyPI (installed into the same environment when missing).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from clusterctl.facts.gather import PROBE
from clusterctl.inventory.load import load_inventory
from clusterctl.inventory.model import Inventory
from clusterctl.lab import lab as labs
from clusterctl.lab.lab import LabOptions

LAB = "checkbench"
TIMEOUT_S = 300


def main() -> None:
    """Run the rounds and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    _install()
    labs.down(LAB, say=_say)
    with tempfile.TemporaryDirectory() as directory:
        options = LabOptions(nodes=arguments.nodes, gpus=1, directory=Path(directory), ssh_only=True)
        lab = labs.up(LAB, options, say=_say)
        try:
            times = _rounds(lab.inventory, Path(directory), arguments.rounds)
        finally:
            labs.down(LAB, say=_say)
    _print(times, arguments.nodes)


def _install() -> None:
    if shutil.which("parallel-ssh") is None:
        subprocess.run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "pssh"], check=True)
    if not (Path(sys.executable).parent / "ansible").exists():
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "ansible-core"], check=True)


def _rounds(path: Path, directory: Path, rounds: int) -> Mapping[str, list[float]]:
    inventory = load_inventory(path)
    addresses = [node.host for node in inventory.nodes]
    (directory / "hosts").write_text("".join(f"root@{address}\n" for address in addresses))
    (directory / "hosts.ini").write_text("[all]\n" + "".join(f"{address} ansible_user=root\n" for address in addresses))
    (directory / "probe.sh").write_bytes(PROBE)
    ssh = ["-i", str(inventory.ssh.key), "-o", f"UserKnownHostsFile={inventory.ssh.known_hosts}"]
    runs: Mapping[str, Callable[[], None]] = {
        "clusterctl check": lambda: _check(path),
        "pssh, same probe": lambda: _pssh(directory, inventory, ssh),
        "ansible -m setup": lambda: _ansible(directory, ssh, len(addresses)),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.monotonic()
            run()
            if number:  # the first round warms the page cache
                times[name].append(time.monotonic() - began)
    return times


def _check(path: Path) -> None:
    command = [sys.executable, "-m", "clusterctl", "-i", str(path), "check", "--json"]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 1 or b"engine-unusable" not in done.stdout:
        # ssh-only nodes have no engine: exactly that has to be found.
        raise SystemExit(f"check did not find what is there: {done.stdout[-500:]!r} {done.stderr[-500:]!r}")


def _pssh(directory: Path, inventory: Inventory, ssh: list[str]) -> None:
    count = str(len(inventory.nodes))
    argv = ["parallel-ssh", "-h", str(directory / "hosts"), "-p", count, "-t", "60", "-o", str(directory / "out")]
    with (directory / "probe.sh").open("rb") as script:
        done = subprocess.run(
            [*argv, "-x", " ".join(ssh), "-I", f"sh -s -- {inventory.model.path}"],
            stdin=script,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    outputs = list((directory / "out").glob("*"))
    if len(outputs) != len(inventory.nodes) or any(b"@@begin hostname" not in file.read_bytes() for file in outputs):
        raise SystemExit(f"pssh did not read every node: {done.stderr[-500:]!r}")


def _ansible(directory: Path, ssh: list[str], count: int) -> None:
    ansible = Path(sys.executable).parent / "ansible"
    argv = [str(ansible), "all", "-i", str(directory / "hosts.ini"), "-m", "setup", "-f", str(count)]
    done = subprocess.run(
        [*argv, f"--ssh-common-args={' '.join(ssh)}"], capture_output=True, timeout=TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"ansible failed: {(done.stdout + done.stderr)[-500:]!r}")


def _print(times: Mapping[str, list[float]], nodes: int) -> None:
    medians = {name: statistics.median(values) for name, values in times.items()}
    ours = medians["clusterctl check"]
    print(f"{nodes} nodes, medians of {len(times['clusterctl check'])} rounds")
    for name, median in medians.items():
        values = times[name]
        print(
            f"{name:<20}{median:>8.2f} s   ({min(values):.2f} to {max(values):.2f})   ours/theirs {ours / median:.2f}"
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
