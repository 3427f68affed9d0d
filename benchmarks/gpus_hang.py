"""A rank that stops while completions are asked for, for gpus_of_host.py: who says that it is the one, and how soon."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from gpus_load import Load
    from gpus_of_host import Trial

TIMEOUTS = {"canary_interval_s": 10, "hang_s": 30}
"""Of the inventory, so that the agent, too, calls it hung within the time that a rented machine is there."""
STOP_RANK = """
import os, re, signal
for pid in sorted(filter(str.isdigit, os.listdir("/proc")), key=int, reverse=True):
    try:
        title = open(f"/proc/{pid}/cmdline", errors="replace").read()
    except OSError:
        continue
    if re.match(r"VLLM::Worker|ray::(?!IDLE)\\w*Worker", title):
        os.kill(int(pid), signal.SIGSTOP)
        print("stopped", pid, title.partition(chr(0))[0].strip())
        break
"""
ANSWER_S = 15
"""Within so many seconds `diagnose` must have named it."""


def hang(trial: Trial, load: Load) -> None:
    """Stop a rank of the last node, ask `diagnose`, and wait until the cluster has mended itself."""
    node = yaml.safe_load(trial.inventory.read_text())["nodes"][-1]["name"]
    client = threading.Thread(target=load.run, daemon=True)
    client.start()
    time.sleep(2)
    stopped = time.time()
    code, out, _ = trial.run("hang_stop", "exec", node, "--", "python3", "-c", STOP_RANK, limit_s=30)
    time.sleep(3)  # a completion is under way now, and does not come
    bundle = trial.options.logs / f"{trial.layout.name}_hang.tar.gz"
    bundle.unlink(missing_ok=True)
    _, said, seconds = trial.run("hang_diagnose", "diagnose", "--output", str(bundle), limit_s=60)
    named = bool(out.split()) and f"process {out.split()[1]}" in said and node in said
    trial.step(
        "hang_diagnose", ok=named and seconds <= ANSWER_S, seconds=seconds, stopped=out.strip(), said=said[:1500]
    )
    recovery: dict[str, Any] | None = None
    while recovery is None and time.time() - stopped < trial.options.load_s and code == 0:
        time.sleep(1)
        recovery = load.recovery(stopped)
    load.stop.set()
    client.join(35)
    _, history, _ = trial.run("hang_history", "history", "--limit", "6", limit_s=60)
    trial.step("hang", ok=recovery is not None, history=history[-1500:], **(recovery or {}))
