"""The ways to serve, each as a cell of one table: what the inventory says, what must come of it, who can be killed.

The reference is `tensor_parallel: 1` on one node, by hand: vLLM 0.32 (CPU build), the lab's models.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.request import Request, urlopen

from clusterctl.lab import lab as labs
from clusterctl.lab.image import cache
from clusterctl.lab.lab import Lab

from .conftest import Clusterctl
from .faults import Fault, kill_container, signal_process

REFERENCE = (-5.6844, -5.6031, -5.6001, -5.5968, -5.6016, -5.6102, -5.6226, -5.6196)
"""Of eight tokens after "hello world", greedy, by the lab's model."""

MOE_REFERENCE = (-5.4609, -5.5614, -5.5313, -5.5112, -5.4952, -5.4790, -5.4669, -5.4662)
"""The same of the lab's model with experts."""

TOLERANCE = 0.005
"""Sums over ranks are rounded in another order: up to 0.004 apart."""

QUICK: Mapping[str, Any] = {"timeouts.canary_interval_s": 2, "timeouts.hang_s": 20, "timeouts.drain_s": 5}

BOTH = ("node1", "node2")


@dataclass(frozen=True)
class Cell:
    """One way to serve on lab nodes."""

    name: str
    executor: str
    """What must be decided."""
    engines: tuple[tuple[str, ...], ...]
    """The nodes of each engine, by rank."""
    changes: Mapping[str, Any]
    """Of the lab's inventory."""
    workers: tuple[tuple[str, str], ...] = ()
    """Processes whose end must be healed, as (node, pattern of its command line): of ranks, and of engines."""
    reference: tuple[float, ...] = REFERENCE
    without_ray: bool = False
    """Whether the image has none."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that it needs."""
        return BOTH[: max(len(set().union(*self.engines)), 1)]

    def clusterctl(self, lab: Lab, base: Clusterctl, more: Mapping[str, Any] | None = None) -> Clusterctl:
        """The command line for it."""
        members = [m for m in lab.spec.members if m.name in self.nodes]
        nodes = [{"name": m.name, "host": str(m.address), "address": str(m.address)} for m in members]
        name = self.name.replace(" ", "-").replace(",", "")
        image = {"container.image": image_without_ray(lab, self.nodes)} if self.without_ray else {}
        return base.with_changes(name, {"nodes": nodes, **QUICK, **image, **self.changes, **(more or {})})


def _cell(name: str, engines: tuple[tuple[str, ...], ...], changes: Mapping[str, Any], *workers: str) -> Cell:
    """`workers` are "node: pattern"."""
    whom = tuple((node, pattern) for node, _, pattern in (each.partition(": ") for each in workers))
    executor = changes.get("serve.executor", "mp")
    return Cell(name, executor, engines, changes, whom)


def _moe(cell: Cell) -> Cell:
    """The same of the model with experts."""
    return replace(cell, changes={"model.path": "/models/tiny-moe", **cell.changes}, reference=MOE_REFERENCE)


ONE, TWO = (("node1",),), (("node1", "node2"),)

CELLS: Mapping[str, Cell] = {
    cell.name: cell
    for cell in (
        _cell("TP1, one node", ONE, {"accelerator.per_node": 1}, "node1: VLLM::EngineCore"),
        _cell(
            "TP2, one node",
            ONE,
            {"accelerator.per_node": 2},
            "node1: VLLM::Worker_TP1",
            "node1: VLLM::EngineCore",
        ),
        _cell(
            "PP2, one node",
            ONE,
            {"accelerator.per_node": 2, "serve.tensor_parallel": 1, "serve.pipeline_parallel": 2},
            "node1: VLLM::Worker_PP1",
            "node1: VLLM::EngineCore",
        ),
        _cell(
            "PP2 over nodes, mp",
            TWO,
            {"accelerator.per_node": 1, "serve.executor": "mp"},
            "node2: VLLM::Worker_PP1",
            "node1: VLLM::EngineCore",
        ),
        replace(
            _cell(
                "PP2 over nodes, auto, image without Ray",
                TWO,
                {"accelerator.per_node": 1},
                "node2: VLLM::Worker_PP1",
                "node1: VLLM::EngineCore",
            ),
            without_ray=True,
        ),
        _cell(
            "TP2 over nodes, mp",
            TWO,
            {"accelerator.per_node": 1, "serve.executor": "mp", "serve.tensor_parallel": 2},
            "node2: VLLM::Worker_TP1",
            "node1: VLLM::EngineCore",
        ),
        _cell(
            "PP2 over nodes, Ray",
            TWO,
            {"accelerator.per_node": 1, "serve.executor": "ray"},
            "node2: ray::RayWorkerProc",
            "node1: VLLM::EngineCore",
        ),
        _cell(
            "TP2 over nodes, Ray",
            TWO,
            {"accelerator.per_node": 1, "serve.executor": "ray", "serve.tensor_parallel": 2},
            "node2: ray::RayWorkerProc",
            "node1: VLLM::EngineCore",
        ),
        _cell(
            "DP2, one node",
            ONE * 2,
            {"accelerator.per_node": 2, "serve.data_parallel": 2},
            "node1: VLLM::EngineCore_DP1",
        ),
        _cell(
            "DP2 x TP2, one node",
            ONE * 2,
            {"accelerator.per_node": 4, "serve.data_parallel": 2},
            "node1: VLLM::Worker_DP1_TP1",
            "node1: VLLM::EngineCore_DP1",
        ),
        _cell(
            "DP2 over nodes, Ray",
            (("node1",), ("node2",)),
            {"accelerator.per_node": 1, "serve.data_parallel": 2, "serve.executor": "ray"},
            "node2: ray::EngineCoreActor",
            "node2: ray::RayWorkerProc",
        ),
        _cell(
            "DP2 x TP2 over nodes, mp",
            (("node1",), ("node2",)),
            {"accelerator.per_node": 2, "serve.data_parallel": 2, "serve.executor": "mp"},
            "node2: VLLM::Worker_DP1_TP1",
            "node1: VLLM::EngineCore_DP0",
        ),
        _cell(
            "DP2 over nodes, mp",
            (("node1",), ("node2",)),
            {"accelerator.per_node": 1, "serve.data_parallel": 2, "serve.executor": "mp"},
            "node2: VLLM::EngineCore_DP1",
            "node1: VLLM::EngineCore_DP0",
        ),
        _moe(_cell("MoE TP1, one node", ONE, {"accelerator.per_node": 1}, "node1: VLLM::EngineCore")),
        _moe(
            _cell(
                "MoE EP2 of TP2, one node",
                ONE,
                {"accelerator.per_node": 2, "serve.expert_parallel": True},
                "node1: VLLM::Worker_TP1_EP1",
                "node1: VLLM::EngineCore",
            )
        ),
        _moe(
            _cell(
                "MoE EP2 of DP2, one node",
                ONE * 2,
                {"accelerator.per_node": 2, "serve.data_parallel": 2, "serve.expert_parallel": True},
                "node1: VLLM::EngineCore_DP1",
            )
        ),
        _moe(
            _cell(
                "MoE EP2 of DP2 over nodes, mp",
                (("node1",), ("node2",)),
                {
                    "accelerator.per_node": 1,
                    "serve.data_parallel": 2,
                    "serve.executor": "mp",
                    "serve.expert_parallel": True,
                },
                "node2: VLLM::EngineCore_DP1",
                "node1: VLLM::EngineCore_DP0",
            )
        ),
        _moe(
            _cell(
                "MoE EP2 of DP2 over nodes, Ray",
                (("node1",), ("node2",)),
                {
                    "accelerator.per_node": 1,
                    "serve.data_parallel": 2,
                    "serve.executor": "ray",
                    "serve.expert_parallel": True,
                },
                "node2: ray::EngineCoreActor",
                "node2: ray::RayWorkerProc",
            )
        ),
    )
}


WITHOUT_RAY = "lab-without-ray:1"


def image_without_ray(lab: Lab, nodes: Sequence[str]) -> str:
    """The lab's image without Ray, the same on these nodes: made on the first, copied to the others."""
    first, *others = nodes
    present = {node: lab.exec(node, ["docker", "images", "--quiet", WITHOUT_RAY]).split() for node in nodes}
    if len({tuple(found) for found in present.values()}) == 1 and present[first]:
        return WITHOUT_RAY
    packages = "/opt/venv/lib/python3.11/site-packages"
    removed = f"rm -rf {packages}/ray {packages}/ray-* /opt/venv/bin/ray"
    lab.exec(first, ["docker", "run", "--name", "strip", "--entrypoint", "sh", cache.reference(), "-c", removed])
    change = 'ENTRYPOINT ["vllm", "serve"]'
    lab.exec(first, ["docker", "commit", "--change", change, "--change", "CMD []", "strip", WITHOUT_RAY])
    lab.exec(first, ["docker", "rm", "strip"])
    for node in others:
        saved = subprocess.Popen([*lab.enter(first), "docker", "save", WITHOUT_RAY], stdout=subprocess.PIPE)
        subprocess.run([*lab.enter(node), "docker", "load"], stdin=saved.stdout, check=True, stdout=subprocess.DEVNULL)
        assert saved.wait(timeout=60) == 0
    return WITHOUT_RAY


def healing(cell: Cell, cluster: str) -> Mapping[str, Fault]:
    """What may happen to it while it serves, by name. node1 is the head."""

    def killed(node: str, pattern: str, signal: str = "KILL") -> Callable[[Lab], None]:
        return lambda lab: signal_process(lab, node, signal, pattern)

    faults = [Fault(f"{pattern} on {node} killed", killed(node, pattern)) for node, pattern in cell.workers]
    node, pattern = cell.workers[0]
    faults += [
        Fault(f"{pattern} on {node} SIGSTOPped", killed(node, pattern, "STOP")),
        Fault("head's container killed", lambda lab: kill_container(lab, "node1", cluster)),
        Fault("head off, on after 15 s", _off("node1"), _on("node1"), 15),
    ]
    if len(cell.nodes) > 1:
        faults += [
            Fault("follower's container killed", lambda lab: kill_container(lab, "node2", cluster)),
            Fault("follower off, on after 15 s", _off("node2"), _on("node2"), 15),
            Fault(
                "partition of 30 s", lambda lab: labs.partition(lab, "node2"), lambda lab: labs.heal(lab, "node2"), 30
            ),
        ]
    return {fault.name: fault for fault in faults}


def _off(node: str) -> Callable[[Lab], None]:
    return lambda lab: labs.power_off(lab, node)


def _on(node: str) -> Callable[[Lab], None]:
    return lambda lab: labs.power_on(lab, node)


def restarts(status: Any) -> int:
    """How often anything was started anew, of what `status --json` says."""
    return sum(int(each["restarts_total"]) for node in status["nodes"] for each in node["containers"])


def logprobs(endpoint: str, model: str, key: str = "", engine: int | None = None) -> list[float]:
    """Of eight tokens after "hello world", greedy, by any engine or by the one of this rank."""
    body = {
        "model": model,
        "prompt": "hello world",
        "max_tokens": 8,
        "temperature": 0,
        "logprobs": 1,
        "ignore_eos": True,
    }
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    if engine is not None:
        headers["X-data-parallel-rank"] = str(engine)
    with urlopen(Request(f"{endpoint}/v1/completions", json.dumps(body).encode(), headers), timeout=60) as answer:  # noqa: S310
        return list(json.loads(answer.read())["choices"][0]["logprobs"]["token_logprobs"])


def apart(found: list[float], reference: tuple[float, ...]) -> float:
    """The largest difference of two lists of log-probabilities; infinite where they are not of the same length."""
    if len(found) != len(reference):
        return float("inf")
    return max(abs(one - other) for one, other in zip(found, reference, strict=True))
