"""`lab up --gpus-of-host` on a machine that has two GPUs as far as files go (machines/gpus.sh), with an engine that
gives devices by CDI for real. What only a real GPU shows is benchmarks/gpus_of_host.py's.

Needs a Docker Engine from 25 on in a folder: CLUSTERCTL_TEST_ENGINE=FOLDER, made by machines/engine.sh FOLDER (70 MB).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif("CLUSTERCTL_TEST_ENGINE" not in os.environ, reason="CLUSTERCTL_TEST_ENGINE is not set"),
]

HERE = Path(__file__).parent / "machines"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    work, name = tmp_path_factory.mktemp("gpus"), os.environ.get("CLUSTERCTL_TEST_LAB", "pytest") + "-gpus"
    (work / "files").mkdir()
    machine = ["sh", str(HERE / "gpus.sh"), str(work / "machine"), os.environ["CLUSTERCTL_TEST_ENGINE"]]
    drill = [sys.executable, str(HERE / "drill.py"), str(work / "files"), name]
    argv = ["unshare", "--mount", "--propagation", "private", *machine, *drill]
    environment = {**os.environ, "CLUSTERCTL_LAB_ROOT": str(work / "state"), "PYTHONPATH": str(HERE.parents[2])}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=400, env=environment)
    print(done.stdout, done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_the_nodes_share_out_the_machines_gpus(seen: dict[str, Any]) -> None:
    assert seen["up"][0] == 0, seen["up"][1]
    for node, own, others in ((1, "nvidia0", "nvidia1"), (2, "nvidia1", "nvidia0")):
        there = seen[f"node{node}"]
        assert {own, "nvidiactl", "nvidia-uvm", "null", "pts", "shm"} <= set(there["dev"])
        assert others not in there["dev"]
        assert len(there["smi"]) == 2  # as a real one: the driver lists all
        assert "LlamaForCausalLM" in there["model"]


def test_a_container_gets_its_nodes_gpu_and_the_driver_by_cdi(seen: dict[str, Any]) -> None:
    for node, own, others in ((1, "nvidia0", "nvidia1"), (2, "nvidia1", "nvidia0")):
        there = seen[f"node{node}"]
        assert {own, "nvidiactl", "nvidia-uvm"} <= set(there["container"])
        assert others not in there["container"]
        assert there["driver"] == "not a library"


def test_check_counts_the_nodes_own_gpus_and_its_probe_gets_them(seen: dict[str, Any]) -> None:
    _, said = seen["check"]
    codes = {finding["code"] for finding in said["findings"]}
    assert "gpus-in-container" in codes, "the probe ran with the device, and found no CUDA: there is none"
    assert not codes & {
        "gpus-missing",
        "gpu-cdi-missing",
        "gpu-cdi-stale",
        "gpu-container-fails",
        "gpu-runtime-missing",
    }


def test_a_second_lab_is_not_given_the_first_ones_gpus(seen: dict[str, Any]) -> None:
    assert seen["again"] == 0
    assert seen["other"][0] == 1
    assert "2 belong to other labs" in seen["other"][1]


def test_both_labs_are_gone(seen: dict[str, Any]) -> None:
    assert seen["down"] == [0, 0]
