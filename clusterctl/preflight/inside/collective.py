"""A short all-reduce across the nodes, in the serving image with the serving flags. One file; needs the image's torch.

Run on every node at once. It starts one process for each rank of its node, as vLLM does, without a launcher that would
choose addresses by itself. What NCCL says of its transport goes to stdout as it is; the probe's own lines are JSON
objects: {"event": "joined" | "reduced" | "wrong" | "error" | "deadline", "rank": …}. The reader is
clusterctl/facts/collective.py. Configuration: /etc/clusterctl/collective.json.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

CONFIG_PATH = Path("/etc/clusterctl/collective.json")
WARM_UP = 2
GRACE_S = 3.0
"""Seconds in which the other ranks of the node may still say why they ended, once one has failed."""


def main() -> int:
    """Start the node's ranks and wait for all of them, or for the deadline."""
    config = json.loads((Path(sys.argv[1]) if len(sys.argv) > 1 else CONFIG_PATH).read_text())
    if "CLUSTERCTL_RANK" in os.environ:
        return rank(config, int(os.environ["CLUSTERCTL_RANK"]))
    deadline = time.monotonic() + config["deadline_s"]
    for wanted in (signal.SIGTERM, signal.SIGINT):
        # The first process of a container ignores signals that it does not handle.
        signal.signal(wanted, lambda *_: os._exit(1))
    first = config["first_rank"]
    ranks = {
        number: subprocess.Popen([sys.executable, *sys.argv], env={**os.environ, "CLUSTERCTL_RANK": str(number)})
        for number in range(first, first + config["ranks"])
    }
    while any(process.poll() is None for process in ranks.values()):
        if time.monotonic() > deadline:
            say("deadline", first, alive=[number for number, process in ranks.items() if process.poll() is None])
            break
        if any(process.poll() for process in ranks.values()):
            # A rank that has failed leaves the others waiting for it.
            deadline = min(deadline, time.monotonic() + GRACE_S)
        time.sleep(0.05)
    for process in ranks.values():
        process.kill()
    return max(abs(process.wait()) for process in ranks.values())


def rank(config: dict[str, Any], number: int) -> int:
    """One rank: join, reduce, check the sum, measure."""
    import torch  # noqa: PLC0415 (seconds, and only the ranks need it)
    import torch.distributed as dist  # noqa: PLC0415

    backend, world = config["backend"], config["world"]
    device = torch.device("cpu")
    try:
        if backend == "nccl":
            device = torch.device("cuda", number - config["first_rank"])
            torch.cuda.set_device(device)
        began = time.monotonic()
        dist.init_process_group(
            backend,
            init_method=f"tcp://{config['master_address']}:{config['master_port']}",
            world_size=world,
            rank=number,
            timeout=timedelta(seconds=config["join_s"]),
        )
        say("joined", number, seconds=round(time.monotonic() - began, 2))
        data = torch.ones(config["bytes"] // 4, dtype=torch.float32, device=device)
        dist.all_reduce(data)
        if float(data.min()) != world or float(data.max()) != world:
            say("wrong", number, expected=world, smallest=float(data.min()), largest=float(data.max()))
            return 1
        say("reduced", number, bytes=config["bytes"], seconds=timed(dist, torch, data, config["iterations"]))
        dist.barrier()
        dist.destroy_process_group()
    except Exception as error:  # noqa: BLE001 (whatever it is: it is the answer)
        say("error", number, error=f"{type(error).__name__}: {error}")
        return 1
    return 0


def timed(dist: Any, torch: Any, data: Any, iterations: int) -> float:
    """Seconds of one all-reduce, the mean of several."""
    for _ in range(WARM_UP):
        dist.all_reduce(data)
    wait = torch.cuda.synchronize if data.is_cuda else lambda: None
    wait()
    began = time.perf_counter()
    for _ in range(iterations):
        dist.all_reduce(data)
    wait()
    return float((time.perf_counter() - began) / iterations)


def say(event: str, number: int, **values: Any) -> None:
    """One line of the probe's own, in one write: several processes share this output."""
    os.write(1, (json.dumps({"event": event, "rank": number, **values}) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
