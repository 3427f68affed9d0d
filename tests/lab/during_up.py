"""Faults during `up`, and the truth against which clusterctl's words are held: asked of the machines themselves."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from clusterctl.lab import lab as labs
from clusterctl.lab.commands import CommandError
from clusterctl.lab.lab import Lab

from .faults import NotInjectedError, complete, kill_container, restart_engine, signal_process

UP_DEADLINE_S = 420
OURS = {6379, 6380, 6381, 6382, 6383, 6384, 8000, 29500, 29501, 29550, 52365}
"""Ports of the default inventory."""
PROCESSES = ("clusterctl_agent", "raylet", "gcs_server", "ray::", "VLLM::")
"""What the processes of a cluster are called."""

RAYLET = "raylet/raylet"

PHASES = {
    "checks": "checking the nodes",
    "trying": "running the image on every node",
    "containers": "starting containers",
    "Ray": "forming the Ray cluster",
    "first node": "1/2 nodes in Ray",
    "loading": "starting vLLM",
    "engine": "engine starting",
    "workers": "workers connecting",
    "warm-up": "warming up",
    "listening": "API listening",
}
"""Where `up` is → the line of its progress that says so."""

MP_PHASES = {
    **{phase: text for phase, text in PHASES.items() if phase not in ("Ray", "first node")},
    "link": "linking the nodes",
    "first on the link": "1/2 nodes on the link",
}
"""The same without Ray, over two nodes."""

OF_RANKS = {
    "ray": {"gcs killed -9": ("node1", "gcs/gcs_server"), "node1: raylet killed": ("node1", RAYLET)}
    | {"node2: raylet killed": ("node2", RAYLET)},
    "mp": {"node1: ranks killed": ("node1", "VLLM::"), "node2: ranks killed": ("node2", "VLLM::")}
    | {"node2: server killed": ("node2", "clusterctl_agent server")},
}
"""Executor → what else may be killed while it starts: node, and pattern of the command line."""


@dataclass
class Scene:
    """A lab, the inventory in play, and the `up` that runs on it."""

    lab: Lab
    inventory: Path
    cluster: str
    process: subprocess.Popen[str]
    engines: int = 1
    """How many are served by."""
    others: list[subprocess.Popen[str]] = field(default_factory=list)
    """Other commands that a fault has started."""

    def really_serves(self) -> bool:
        """Whether a completion comes back from every engine, asked without clusterctl."""
        return really_serves(self.lab, self.engines)

    def command(self, *words: str) -> subprocess.Popen[str]:
        """Another command of ours, at the same time."""
        argv = [sys.executable, "-m", "clusterctl", "-i", str(self.inventory), *words]
        started = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.inventory.parent
        )
        self.others.append(started)
        return started


def _signal_operator(number: int) -> Callable[[Scene], None]:
    def send(scene: Scene) -> None:
        if scene.process.poll() is not None:
            raise NotInjectedError("`up` had ended")
        os.kill(scene.process.pid, number)

    return send


def _cut_ssh(node: str) -> Callable[[Scene], None]:
    def cut(scene: Scene) -> None:
        # The sessions' processes, not the listening one, which is the node's first process.
        signal_process(scene.lab, node, "KILL", "^sshd: root@notty|^sshd: root \\[priv\\]|^sshd-session")

    return cut


def _unname_image(node: str, reference: str) -> Callable[[Scene], None]:
    def unname(scene: Scene) -> None:
        scene.lab.exec(node, ["docker", "tag", reference, "kept:kept"])
        scene.lab.exec(node, ["docker", "rmi", "--force", reference])

    return unname


def _rename_image(node: str, reference: str) -> Callable[[Lab], None]:
    def rename(lab: Lab) -> None:
        if "kept:kept" in lab.exec(node, ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}"]).split():
            lab.exec(node, ["docker", "tag", "kept:kept", reference])
            lab.exec(node, ["docker", "rmi", "--force", "kept:kept"])

    return rename


ENGINE_STATE = "/var/lib/docker/containers"


def _fill_disk(lab: Lab, node: str) -> None:
    """The engine finds no space for what it writes down of a container."""
    lab.exec(node, ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", ENGINE_STATE])
    lab.exec(node, ["sh", "-c", f"head -c 4096 /dev/zero >{ENGINE_STATE}/full || true"])


def _free_disk(lab: Lab, node: str) -> None:
    with contextlib.suppress(CommandError):  # never filled
        lab.exec(node, ["umount", "-l", ENGINE_STATE])


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong while `up` runs. `mend` mends the machine, never the cluster."""

    name: str
    inject: Callable[[Scene], object]
    """Raises NotInjectedError where there is nothing to break at that moment."""
    mend: Callable[[Lab], None] = lambda _: None


def faults(cluster: str, reference: str, executor: str = "ray") -> Mapping[str, Fault]:
    """By name."""

    def of_machine(action: Callable[[Lab], None]) -> Callable[[Scene], None]:
        """What is to be hit may not be there yet: that is no fault."""

        def act(scene: Scene) -> None:
            try:
                action(scene.lab)
            except CommandError as error:
                raise NotInjectedError(f"{error}".splitlines()[0]) from error

        return act

    found = [
        Fault("operator killed -9", _signal_operator(signal.SIGKILL)),
        Fault("operator Ctrl-C", _signal_operator(signal.SIGINT)),
        Fault("operator SIGTERM", _signal_operator(signal.SIGTERM)),
        Fault("a second up", lambda scene: scene.command("up")),
        Fault("a down at the same time", lambda scene: scene.command("down")),
        Fault(
            "vLLM killed -9", of_machine(lambda lab: signal_process(lab, "node1", "KILL", "clusterctl_agent server"))
        ),
    ]
    for name, (where, pattern) in OF_RANKS[executor].items():
        found.append(Fault(name, of_machine(partial(signal_process, node=where, signal="KILL", pattern=pattern))))
    for node in ("node1", "node2"):

        def at(action: Callable[[Lab, str], None], node: str = node) -> Callable[[Lab], None]:
            return lambda lab: action(lab, node)

        found += [
            Fault(f"{node}: SSH cut", _cut_ssh(node)),
            Fault(f"{node}: power off", of_machine(at(labs.power_off)), at(labs.power_on)),
            Fault(f"{node}: partition", of_machine(at(labs.partition)), at(labs.heal)),
            Fault(f"{node}: engine stopped", of_machine(at(lambda lab, n: restart_engine(lab, n, "TERM")))),
            Fault(f"{node}: engine killed -9", of_machine(at(lambda lab, n: restart_engine(lab, n, "KILL")))),
            Fault(f"{node}: container killed", of_machine(at(lambda lab, n: kill_container(lab, n, cluster)))),
            Fault(f"{node}: disk full", of_machine(at(_fill_disk)), at(_free_disk)),
            Fault(f"{node}: image removed", _unname_image(node, reference), _rename_image(node, reference)),
        ]
    return {fault.name: fault for fault in found}


@dataclass(frozen=True)
class Outcome:
    """What one run came to."""

    fault: str
    phase: str
    not_injected: str
    """Why nothing was broken; empty where something was."""
    up_code: int
    up_s: float
    said: str
    """The error that `up` ended with, its first line."""
    state: str
    """What `status` said afterwards."""
    then: str
    """What was done next, and how it ended."""
    lies: tuple[str, ...]
    """Words of clusterctl that were not true, and things that were left behind."""


def endpoint(lab: Lab) -> str:
    return f"http://{lab.address('node1')}:8000"


def really_serves(lab: Lab, engines: int = 1) -> bool:
    """Whether a completion comes back from every engine, asked without clusterctl."""
    ranks = range(engines) if engines > 1 else (None,)
    return all(complete(endpoint(lab), "tiny", 1, timeout_s=15, engine=rank) is None for rank in ranks)


def containers(lab: Lab, cluster: str) -> dict[str, list[str]]:
    """Containers with the cluster's label on the nodes that have power."""
    found = {}
    for node in labs.status(lab):
        if node.power == "on":
            label = f"label=clusterctl.cluster={cluster}"
            form = '{{.ID}} {{.Label "clusterctl.role"}}'
            rows = lab.exec(node.name, ["docker", "ps", "-a", "--filter", label, "--format", form]).splitlines()
            # A probe of a run that was cut off ends by itself, and is no part of the cluster.
            found[node.name] = [row for row in rows if not row.endswith(" probe")]
    return found


def left_behind(lab: Lab, cluster: str) -> list[str]:
    """Everything of a cluster that is still on the nodes: containers, volumes, ports, processes, files."""
    left = []
    for node in lab.spec.members:
        name = node.name
        left += [f"{name}: container {each}" for each in lab.exec(name, ["docker", "ps", "-aq"]).split()]
        left += [f"{name}: volume {each}" for each in lab.exec(name, ["docker", "volume", "ls", "-q"]).split()]
        rows = lab.exec(name, ["ss", "-Hltn"]).splitlines()
        ports = {int(row.split()[3].rsplit(":", 1)[1]) for row in rows}
        left += [f"{name}: port {port}" for port in sorted(ports & OURS)]
        processes = lab.exec(name, ["ps", "-eo", "args="]).splitlines()
        left += [f"{name}: process {line[:80]}" for line in processes if any(word in line for word in PROCESSES)]
        left += [f"{name}: file /tmp/{each}" for each in lab.exec(name, ["ls", "-A", "/tmp"]).split()]
        left += [f"{name}: file /dev/shm/{each}" for each in lab.exec(name, ["ls", "-A", "/dev/shm"]).split()]
    return left


def clusterctl(inventory: Path, *words: str, timeout_s: float = UP_DEADLINE_S) -> subprocess.CompletedProcess[str]:
    """Run a command of ours to its end. One that does not come to it ends with 124, as `timeout` says it."""
    argv = [sys.executable, "-m", "clusterctl", "-i", str(inventory), *words]
    try:
        return subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=timeout_s, cwd=inventory.parent
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 124, "", f"did not end within {timeout_s:g} s")


@dataclass(frozen=True)
class Chosen:
    """What happens in one run."""

    fault: str
    phase: str
    delay_s: float
    """Seconds after the phase's beginning."""
    then: str
    """What is done afterwards: `up` (and then `down`), or `down`."""


def run_one(lab: Lab, inventory: Path, fault: Fault, chosen: Chosen, engines: int = 1) -> Outcome:
    """Start, break, listen to what clusterctl says, and hold it against the truth."""
    scene = Scene(lab, inventory, lab.name, _start(inventory), engines)
    began = time.monotonic()
    errors: list[str] = []
    not_injected = _break(scene, fault, chosen, errors)
    reader = threading.Thread(target=_read_on, args=(scene.process, errors), daemon=True)
    reader.start()
    lies: list[str] = []
    try:
        code = scene.process.wait(UP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        scene.process.kill()
        code = scene.process.wait()
        lies.append("`up` did not end")
    up_s = time.monotonic() - began
    reader.join(10)
    lies += _judge_up(scene, code, not_injected, "".join(errors))
    state, wrong = _judge_status(scene)
    lies += wrong
    fault.mend(lab)
    for node in labs.status(lab):
        if node.power == "off":
            labs.power_on(lab, node.name)
    _await_engines(lab)
    ended = _then(scene, chosen.then, lies)
    if lies:
        print("".join(errors)[-3000:], file=sys.stderr)
    said = next((row.strip() for row in errors if row.startswith("Error:")), "")
    return Outcome(fault.name, chosen.phase, not_injected, code, round(up_s, 1), said, state, ended, tuple(lies))


def _break(scene: Scene, fault: Fault, chosen: Chosen, errors: list[str]) -> str:
    """Break it at its moment. Returns why it was not broken, or nothing."""
    if not _wait_for(scene.process, (PHASES | MP_PHASES)[chosen.phase], errors):
        return "not reached"
    try:
        time.sleep(chosen.delay_s)
        fault.inject(scene)
    except NotInjectedError as error:
        return str(error)
    except BaseException:
        scene.process.kill()  # it must not hold the lock of whatever comes next
        raise
    return ""


def _judge_up(scene: Scene, code: int, not_injected: str, said: str) -> list[str]:
    """What of the end of `up`, and of the commands beside it, was not true."""
    lies = []
    if code == 0 and not scene.really_serves():
        lies.append("false ready: `up` ended with 0, and no completion comes back")
    if code != 0 and not_injected:
        lies.append(f"`up` ended with {code}, and nothing had been broken ({not_injected})")
    if "Traceback" in said or "a bug in clusterctl" in said:
        lies.append("a bug: a traceback, or what stands for one")
    for other in scene.others:
        try:
            _, heard = other.communicate(timeout=UP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            other.kill()
            lies.append("the other command did not end")
            continue
        if other.returncode not in (0, 6):
            lies.append(f"the other command ended with {other.returncode}: {heard.strip().splitlines()[-3:]}")
    return lies


def _judge_status(scene: Scene) -> tuple[str, list[str]]:
    lies = []
    said = clusterctl(scene.inventory, "status", "--json", timeout_s=120)
    try:
        state = json.loads(said.stdout)["state"]
    except (ValueError, KeyError):
        return "?", [f"`status` ended with {said.returncode}: {said.stderr.strip()[-300:]}"]
    if state == "healthy" and not scene.really_serves():
        lies.append("false ready: `status` says healthy, and no completion comes back")
    if state == "down" and any(containers(scene.lab, scene.cluster).values()):
        lies.append(f"false down: `status` says down, and there is {containers(scene.lab, scene.cluster)}")
    return state, lies


def _then(scene: Scene, then: str, lies: list[str]) -> str:
    """The next command repairs it, whatever there is: `up` to a completion, `down` to nothing."""
    inventory, cluster, ended = scene.inventory, scene.cluster, ""
    if then == "up":
        again = clusterctl(inventory, "up")
        ended = f"up {again.returncode}, "
        if again.returncode != 0:
            lies.append(f"the next `up` ended with {again.returncode}: {again.stderr.strip()[-800:]}")
        elif not scene.really_serves():
            lies.append("false ready: the next `up` ended with 0, and no completion comes back")
    down = clusterctl(inventory, "down", timeout_s=240)
    ended += f"down {down.returncode}"
    if down.returncode != 0:
        lies.append(f"`down` ended with {down.returncode}: {down.stderr.strip()[-500:]}")
    elif left := left_behind(scene.lab, cluster):
        lies.append(f"false down: left behind: {left}")
    for bundle in inventory.parent.glob(f"clusterctl-{cluster}-*"):
        bundle.unlink()
    return ended


def _start(inventory: Path) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "clusterctl", "-i", str(inventory), "up"]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=inventory.parent)


def _wait_for(process: subprocess.Popen[str], text: str, seen: list[str]) -> bool:
    assert process.stderr is not None
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return True
    return False


def _read_on(process: subprocess.Popen[str], seen: list[str]) -> None:
    assert process.stderr is not None
    seen.extend(process.stderr)


def _await_engines(lab: Lab) -> None:
    """Until every engine answers again, as the machine's service manager sees to it: one that was asked to end and
    hangs is killed (Docker 20.10 hangs when it is asked while it starts a container; seen here)."""
    began = time.monotonic()
    killed: set[str] = set()
    while silent := [node.name for node in labs.status(lab) if not node.engine]:
        waited = time.monotonic() - began
        assert waited < 2 * STOP_TIMEOUT_S, f"the engines of {silent} do not come back"
        for name in silent if waited > STOP_TIMEOUT_S else ():
            if name not in killed:
                killed.add(name)
                restart_engine(lab, name, "KILL")
        time.sleep(0.5)


STOP_TIMEOUT_S = 30
"""Seconds until an engine that does not end is killed (systemd's TimeoutStopSec is 90 by default)."""


def choose(dice: random.Random, names: Sequence[str], phases: Mapping[str, str] = PHASES) -> Chosen:
    """A fault, a phase, a delay, and what is done afterwards."""
    return Chosen(
        fault=dice.choice(names),
        phase=dice.choice(list(phases)),
        delay_s=round(dice.uniform(0, 2), 2),
        then=dice.choices(["down", "up"], weights=[6, 1])[0],
    )
