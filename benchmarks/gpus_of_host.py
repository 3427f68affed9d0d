"""Every way to serve a model on lab nodes that share out this machine's GPUs: times, rates, and what is left.

    python benchmarks/gpus_of_host.py --nodes 2 --gpus 1 --image IMAGE --model DIR [--only ray_pp2|mp_tp2] [--minutes 9]
        [--by-hand ROUNDS] [--runs N] [--hang] [--env NAME=VALUE]... [--option NAME=VALUE]...
        [--results FILE] [--logs DIR] [--keep-lab]

For each layout: `check --nccl`, `up`, an empty `plan`, `status`, `vllm bench serve`, kill -9 of an engine and the time
until it serves again, `down`, and the GPUs' memory. With --by-hand the same is started by plain `docker run` too, in
turn, and the rates are compared; with --hang a rank is stopped, and `diagnose` must name it. Each step has a time limit
of its own, is one line of JSON in the results as it ends, and has its output in the logs. What is in the results is not
done again, so that a run which was cut off goes on; the lab is made if it is not there. Needs root and GPUs. Exit code
1 when a step was not as it must be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpus_by_hand
import gpus_hang
import yaml
from gpus_load import Load, completion

sys.path.insert(0, str(Path(__file__).parents[1]))

from clusterctl.errors import ClusterctlError
from clusterctl.lab import gpus as host_gpus
from clusterctl.lab import lab as labs
from clusterctl.lab.lab import Lab, LabOptions

IDLE_MIB = 64
"""A GPU that nobody uses may show a few MiB of the driver's."""

KILL_ENGINE = """
import os, signal
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        if b"EngineCore" in open(f"/proc/{pid}/cmdline", "rb").read() and int(pid) != os.getpid():
            os.kill(int(pid), signal.SIGKILL)
            print("killed", pid)
    except OSError:
        pass
"""

BENCH = {
    "requests": r"Successful requests:\s+([\d.]+)",
    "output_tokens_per_s": r"Output token throughput \(tok/s\):\s+([\d.]+)",
    "median_ttft_ms": r"Median TTFT \(ms\):\s+([\d.]+)",
    "p99_ttft_ms": r"P99 TTFT \(ms\):\s+([\d.]+)",
    "median_tpot_ms": r"Median TPOT \(ms\):\s+([\d.]+)",
}
"""What `vllm bench serve` prints (0.26)."""


@dataclass(frozen=True)
class Layout:
    """One way to serve."""

    name: str
    executor: str
    tensor: int
    pipeline: int = 1
    data: int = 1
    experts: bool = False
    nodes: int | None = None
    """How many of the lab's nodes; None: all."""

    def settings(self) -> dict[str, Any]:
        """As the inventory has it."""
        return {
            "executor": self.executor,
            "tensor_parallel": self.tensor,
            "pipeline_parallel": self.pipeline,
            "data_parallel": self.data,
            "expert_parallel": self.experts,
        }


def layouts(nodes: int, gpus: int) -> Iterator[Layout]:
    """Those that fit so many nodes with so many GPUs each, the commonest first."""
    if nodes > 1:
        total = nodes * gpus
        inside = f"tp{gpus}" if gpus > 1 else ""
        yield Layout(f"ray_{inside}pp{nodes}", "ray", gpus, nodes)
        yield Layout(f"mp_{inside}pp{nodes}", "mp", gpus, nodes)
        yield Layout(f"mp_tp{total}", "mp", total)
        yield Layout(f"mp_dp{nodes}{inside}", "mp", gpus, data=nodes)
        yield Layout(f"ray_dp{nodes}{inside}", "ray", gpus, data=nodes)
    else:
        yield Layout(f"tp{gpus}", "mp", gpus)
        yield from (Layout(f"dp{gpus // tp}tp{tp}", "mp", tp, data=gpus // tp) for tp in (2, 4) if tp < gpus)
        if gpus > 1:
            yield Layout(f"dp{gpus}", "mp", 1, data=gpus)
            yield Layout(f"ep{gpus}", "mp", 1, data=gpus, experts=True)
    if (nodes, gpus) != (1, 1):
        yield Layout("single", "mp", 1, nodes=1)


class Trial:
    """One layout on the lab, step by step."""

    def __init__(self, layout: Layout, lab: Lab, options: argparse.Namespace) -> None:
        self.layout, self.lab, self.options = layout, lab, options
        self.inventory = lab.inventory.with_name(f"{layout.name}.yaml")
        self.inventory.write_text(yaml.safe_dump(self._inventory(), sort_keys=False))
        self.endpoint = self.model = ""
        self.ok = True
        self.rates: dict[str, list[dict[str, float]]] = {"clusterctl": [], "by_hand": []}

    def _inventory(self) -> dict[str, Any]:
        data = yaml.safe_load(self.lab.inventory.read_text())
        data["nodes"] = data["nodes"][: self.layout.nodes]
        if self.layout.nodes == 1:
            data["accelerator"]["per_node"] = self.layout.tensor
        data["container"]["env"] |= {"NCCL_DEBUG": "INFO", **dict(each.split("=", 1) for each in self.options.env)}
        given = {name: yaml.safe_load(value) for name, value in (each.split("=", 1) for each in self.options.option)}
        data["serve"] = {**self.layout.settings(), "api_key": "off", "options": given}
        data["timeouts"] = {"load_s": self.options.load_s, **(gpus_hang.TIMEOUTS if self.options.hang else {})}
        return dict(data)

    def step(self, name: str, *, ok: bool, **figures: Any) -> bool:
        """One line of the results."""
        self.ok = self.ok and ok
        row = {"layout": self.layout.name, "step": name, "ok": ok, **figures}
        line = json.dumps({"at": time.strftime("%H:%M:%S"), **row})
        with self.options.results.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)
        return ok

    def run(self, name: str, *words: str, limit_s: float) -> tuple[int, str, float]:
        """A command of clusterctl, its output in the logs; 124 when it was ended by the limit."""
        began = time.monotonic()
        log = self.options.logs / f"{self.layout.name}_{name}.log"
        argv = [sys.executable, "-m", "clusterctl", "-i", str(self.inventory), *words]
        with log.open("w") as err, log.with_suffix(".out").open("w") as out:
            try:
                code = subprocess.run(argv, stdout=out, stderr=err, check=False, timeout=limit_s).returncode
            except subprocess.TimeoutExpired:
                code = 124
        return code, log.with_suffix(".out").read_text(errors="replace"), round(time.monotonic() - began, 1)

    def last_words(self, name: str) -> str:
        """The end of a step's log, for a line of the results."""
        lines = (self.options.logs / f"{self.layout.name}_{name}.log").read_text(errors="replace").splitlines()
        return " | ".join(lines[-6:])[-900:]

    def all(self) -> bool:
        """Every step; what follows a failed start is only the way back."""
        commands: dict[str, tuple[str, ...]] = {}
        try:
            self.run("before", "down", limit_s=180)  # what a run that was cut off has left
            self.check()
            if self.up("up"):
                self.look()
                self.bench()
                commands = self.commands_by_hand()
                if not self.options.no_kill:
                    self.kill()
                if self.options.hang and self.ok:
                    gpus_hang.hang(self, Load(self.endpoint, self.model))
            self.down("down")
            if commands:
                self.by_hand(commands)
            if self.ok and self.options.warm:
                self.up("up_warm")
                self.down("down_warm")
        finally:
            self.step("end", ok=self.ok)
        return self.ok

    def check(self) -> None:
        """Whether the nodes are fit, and an all-reduce between them."""
        code, out, seconds = self.run("check", "check", "--nccl", limit_s=200)
        seen = re.findall(r"[^\n]*(?:GB/s|via NET)[^\n]*", out)
        self.step(
            "check", ok=code == 0, code=code, seconds=seconds, seen=seen[:2], said="" if code == 0 else out[-900:]
        )

    def up(self, name: str) -> bool:
        """A start, with the time of each phase."""
        code, out, seconds = self.run(name, "up", "--json", limit_s=self.options.load_s + 60)
        if code:
            self.run(f"{name}_diagnose", "diagnose", limit_s=60)
            return self.step(name, ok=False, code=code, seconds=seconds, said=self.last_words(name))
        said = json.loads(out)
        self.endpoint, self.model = said["endpoint"].removesuffix("/v1"), said["model"]
        figures = {key: said[key] for key in ("executor", "timings_s", "kv_cache")}
        return self.step(name, ok=True, seconds=seconds, **figures)

    def look(self) -> None:
        """Nothing to change, healthy, and the KV cache as foreseen."""
        code, out, seconds = self.run("plan", "plan", "--detailed-exitcode", limit_s=60)
        self.step("plan", ok=code == 0, code=code, seconds=seconds, said="" if code == 0 else out[-900:])
        code, out, seconds = self.run("status", "status", "--json", limit_s=60)
        self.step("status", ok=code == 0, code=code, seconds=seconds)
        code, out, _ = self.run("layout", "layout", "--json", limit_s=60)
        chosen = (json.loads(out).get("chosen") or {}) if code == 0 else {}
        self.step("layout", ok=code == 0, predicted={k: v for k, v in chosen.items() if "kv" in k or "token" in k})

    def bench_argv(self) -> list[str]:
        """vLLM's own benchmark."""
        model, options = self.lab.spec.model_path, self.options
        return ["vllm", "bench", "serve", "--backend", "vllm", "--model", str(model), "--served-model-name", self.model,
                "--base-url", self.endpoint, "--dataset-name", "random", "--ignore-eos",
                "--random-input-len", str(options.input), "--random-output-len", str(options.output),
                "--num-prompts", str(options.prompts)]  # fmt: skip

    def measured(self, name: str, code: int, out: str, seconds: float) -> dict[str, float]:
        """What the benchmark printed, as a step."""
        found = {each: re.search(pattern, out) for each, pattern in BENCH.items()}
        figures = {each: float(match[1]) for each, match in found.items() if match}
        good = code == 0 and figures.get("requests") == self.options.prompts
        self.step(name, ok=good, code=code, seconds=seconds, **figures, said="" if good else out[-900:])
        return figures

    def bench(self, prefix: str = "") -> None:
        """The benchmark, from the head's container."""
        head = yaml.safe_load(self.inventory.read_text())["nodes"][0]["name"]
        for number in range(1, self.options.runs + 1):
            name = f"{prefix}bench{number}"
            code, out, seconds = self.run(name, "exec", head, "--", *self.bench_argv(), limit_s=240)
            self.rates["clusterctl"].append(self.measured(name, code, out, seconds))

    def commands_by_hand(self) -> dict[str, tuple[str, ...]]:
        """What would be typed on each node, while clusterctl's containers are there to be looked at."""
        if not self.options.by_hand:
            return {}
        cluster = yaml.safe_load(self.inventory.read_text())["cluster"]
        found = {node.name: gpus_by_hand.started_like(node, cluster) for node in gpus_by_hand.nodes_of(self.inventory)}
        typed = "".join(f"# {node}\n{shlex.join(words)}\n" for node, words in found.items())
        (self.options.logs / f"{self.layout.name}_by_hand.sh").write_text(typed)
        return found

    def by_hand(self, commands: Mapping[str, Sequence[str]]) -> None:
        """By hand, and in turn with clusterctl from the second round on."""
        nodes = gpus_by_hand.nodes_of(self.inventory)
        for number in range(1, self.options.by_hand + 1):
            if number > 1 and self.up(f"up{number}"):
                self.bench(f"ours{number}_")
                self.down(f"down{number}")
            self.one_by_hand(nodes, commands, f"hand{number}")
        comparison = gpus_by_hand.compared(self.rates["clusterctl"], self.rates["by_hand"])
        self.step("by_hand", ok=bool(comparison), rounds=self.options.by_hand, **comparison)

    def one_by_hand(self, nodes: Sequence[gpus_by_hand.Node], commands: Mapping[str, Sequence[str]], name: str) -> None:
        """One start by hand, the benchmark as from clusterctl's container, and its end."""
        problem = gpus_by_hand.start(nodes, commands)
        ready = lambda: completion(self.endpoint, self.model, 1) == 200  # noqa: E731
        seconds = None if problem else gpus_by_hand.wait_for(nodes[0], self.options.load_s, ready)
        if self.step(f"{name}_up", ok=seconds is not None, seconds=seconds, said=problem):
            for number in range(1, self.options.runs + 1):
                began = time.monotonic()
                done = nodes[0].shell("docker", "exec", gpus_by_hand.NAME, *self.bench_argv(), limit_s=240)
                took = round(time.monotonic() - began, 1)
                figures = self.measured(f"{name}_bench{number}", done.returncode, done.stdout, took)
                self.rates["by_hand"].append(figures)
        gpus_by_hand.stop(nodes, self.options.logs / f"{self.layout.name}_{name}")

    def kill(self) -> None:
        """kill -9 of every engine of the head under load, and the way back."""
        load = Load(self.endpoint, self.model)
        client = threading.Thread(target=load.run, daemon=True)
        client.start()
        time.sleep(3)
        head, killed = yaml.safe_load(self.inventory.read_text())["nodes"][0]["name"], time.time()
        code, out, _ = self.run("kill", "exec", head, "--", "python3", "-c", KILL_ENGINE, limit_s=30)
        recovery = None
        while recovery is None and time.time() - killed < self.options.load_s and "killed" in out:
            time.sleep(0.5)
            recovery = load.recovery(killed)
        load.stop.set()
        client.join(35)
        self.step("kill", ok=code == 0 and recovery is not None, killed=out.split(), **(recovery or {}))

    def down(self, name: str) -> None:
        """Nothing is left, on the GPUs either."""
        code, out, seconds = self.run(name, "down", limit_s=180)
        held = memory_mib(self.lab)
        good = code == 0 and all(mib <= IDLE_MIB for mib in held.values())
        self.step(name, ok=good, code=code, seconds=seconds, memory_mib=held, said="" if code == 0 else out[-900:])


def memory_mib(lab: Lab) -> Mapping[int, int]:
    """What is in use of the lab's GPUs, by index."""
    machine = host_gpus.discover()
    done = subprocess.run(
        [str(machine.smi), "--query-gpu=index,uuid,memory.used", "--format=csv,noheader,nounits"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    own = {gpu.uuid for gpu in lab.spec.host_gpus}
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return {int(index): int(used) for index, uuid, used in rows if uuid in own}


def has_experts(model: Path) -> bool:
    """Whether the model's configuration speaks of experts."""
    return (
        re.search(r'"(num_experts|num_local_experts|n_routed_experts)"', (model / "config.json").read_text())
        is not None
    )


def finished(results: Path) -> set[str]:
    """Layouts that the results have to their end."""
    if not results.exists():
        return set()
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    return {row["layout"] for row in rows if row["step"] == "end"}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--gpus", type=int, default=1, help="of each node")
    parser.add_argument("--image", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--name", default="gpus", help="of the lab")
    parser.add_argument("--only", default="", help="layouts whose names these are (several: a|b)")
    parser.add_argument("--list", action="store_true", help="print the layouts' names")
    parser.add_argument("--minutes", type=float, default=600, help="begin no further layout after so long")
    parser.add_argument("--load-s", type=float, default=400, help="limit of a start")
    parser.add_argument("--env", action="append", default=[], help="NAME=VALUE for container.env")
    parser.add_argument("--option", action="append", default=[], help="NAME=VALUE for serve.options")
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--input", type=int, default=512)
    parser.add_argument("--output", type=int, default=128)
    parser.add_argument("--runs", type=int, default=1, help="of the benchmark")
    parser.add_argument("--by-hand", type=int, default=0, metavar="ROUNDS", help="starts by plain `docker run` in turn")
    parser.add_argument("--hang", action="store_true", help="stop a rank, and ask `diagnose`")
    parser.add_argument("--warm", action="store_true", help="start each layout a second time")
    parser.add_argument("--no-kill", action="store_true")
    parser.add_argument("--keep-lab", action="store_true")
    parser.add_argument("--results", type=Path, default=Path("gpus.jsonl"))
    parser.add_argument("--logs", type=Path, default=Path("gpus.logs"))
    return parser.parse_args()


def main() -> int:
    """Run what is left of the layouts."""
    options = arguments()
    began = time.monotonic()
    names = [name for name in options.only.split("|") if name]
    wanted = [each for each in layouts(options.nodes, options.gpus) if not names or each.name in names]
    if options.list:
        print("\n".join(each.name for each in wanted))
        return 0
    options.logs.mkdir(parents=True, exist_ok=True)
    todo = [each for each in wanted if each.name not in finished(options.results)]
    if not has_experts(options.model):
        todo = [each for each in todo if not each.experts]  # refused with a dense model
    asked = LabOptions(
        nodes=options.nodes, gpus=options.gpus, gpus_of_host=True, own_image=options.image, model=options.model,
        directory=options.logs.absolute() / "lab",
    )  # fmt: skip
    good = True
    try:
        lab = labs.up(options.name, asked, say=lambda line: print(f"[{time.monotonic() - began:6.1f} s] {line}"))
        for layout in todo:
            if time.monotonic() - began > options.minutes * 60:
                print(f"not begun, the time is over: {layout.name}")
                continue
            good = Trial(layout, lab, options).all() and good
    except ClusterctlError as error:
        print(f"{error.message}\n{error.hint or ''}")
        return 1
    finally:
        if not options.keep_lab:
            with contextlib.suppress(ClusterctlError):
                labs.down(options.name, say=print)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
