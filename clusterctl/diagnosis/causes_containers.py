"""Causes seen in the state of the containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from clusterctl.diagnosis.cause import Cause, Certainty, short
from clusterctl.diagnosis.evidence import ContainerEvidence, Evidence
from clusterctl.hosts.engine.commands import EngineCommands
from clusterctl.signatures import vllm as vllm_log


def container_causes(evidence: Evidence) -> Iterator[Cause]:
    """What the engine says of each container."""
    for name, node in evidence.nodes.items():
        for container in node.containers or ():
            yield from _state(name, container, node.commands)
        if node.containers == () and evidence.containers:
            yield Cause(
                Certainty.LIKELY,
                (name,),
                "container-absent",
                ("no container of this cluster",),
                "other nodes have their container, this one has none: it was removed, or never started",
                "clusterctl up",
                "a cluster needs all of its nodes",
            )


def _state(node: str, container: ContainerEvidence, commands: EngineCommands) -> Iterator[Cause]:
    def cause(certainty: Certainty, code: str, *said: str) -> Cause:
        seen, meaning, fix, why = said
        return Cause(certainty, (node,), code, (short(seen),), meaning, fix, why)

    if container.oom_killed:
        yield cause(
            Certainty.CERTAIN,
            "oom-killed",
            f"container {container.name}: OOMKilled, exit code {container.exit_code}",
            "the kernel killed the container's process: its memory or the node's was full (F9)",
            "free memory on the node, a smaller ray.object_store_bytes, or another machine for the rest",
            "the engine recorded it",
        )
    elif container.error and not container.running:
        known = vllm_log.causes([container.error])
        yield cause(
            Certainty.CERTAIN,
            known[0].failure_mode if known else "container-start",
            container.error,
            known[0].meaning if known else "the engine could not start the container",
            known[0].fix
            if known
            else "clusterctl check runs the image with the same flags and explains what it refuses",
            "the engine recorded it",
        )
    elif container.status == "exited" and (died := _deaths(commands).get(container.exit_code)):
        meaning, fix = died
        yield cause(
            Certainty.LIKELY,
            f"exit-{container.exit_code}",
            f"container {container.name}: exited with code {container.exit_code}",
            meaning,
            fix,
            "the engine recorded it; who did it is not recorded",
        )
    elif container.status == "paused":
        yield cause(
            Certainty.CERTAIN,
            "container-paused",
            f"container {container.name}: paused",
            "somebody paused it: nothing in it runs",
            f"on the node: {commands.unpause(container.name)}",
            "the engine says so",
        )


def idle_cause(node: str, container: ContainerEvidence, commands: EngineCommands) -> Cause | None:
    """What it means that a container does nothing, where nothing better is known of its node."""
    certainty, phase = Certainty.LIKELY, container.agent.phase
    if container.status == "created":
        code, seen, meaning = "container-created", "created, never started", "a run of `up` was cut off"
        fix = "clusterctl up"
    elif container.status == "exited" and container.exit_code == 0:
        code, seen = "container-stopped", "exited with code 0"
        meaning = f"it was stopped ({commands.stop}, a `down` that was cut off), and nobody started it"
        fix = "clusterctl up"
    elif container.status == "exited":
        code, seen = f"exit-{container.exit_code}", f"exited with code {container.exit_code}"
        meaning = "its first process ended, and nothing that is known says why"
        fix = f"read its last lines: clusterctl logs --node {node}"
    elif container.running and phase in ("draining", "drained"):
        code, seen = str(phase), f"its agent is {phase}"
        meaning = "the server was ended for a `down` or an `up` that is not done, or was cut off"
        fix = "clusterctl history says whose; then clusterctl up or down"
    else:
        return None
    seen = f"container {container.name}: {seen}"
    why = "nothing else is known of this node, and the cluster cannot serve like this"
    return Cause(certainty, (node,), code, (seen,), meaning, fix, why, container.agent.since)


def _deaths(commands: EngineCommands) -> Mapping[int, tuple[str, str]]:
    """Exit code of a container → meaning and fix (128 + the signal's number; 125 to 127 are the engine's own)."""
    return {
        137: (
            "its first process was killed (SIGKILL): by an operator, by a stop that took too long, or for memory",
            f"on the node: dmesg (Killed process), {commands.events}; then clusterctl up",
        ),
        139: (
            "its first process crashed (SIGSEGV)",
            "on the node: dmesg (segfault) names the library; the same image on every node",
        ),
        125: ("the engine could not run it", f"on the node: {commands.journal}"),
        126: ("the image's python3 cannot be run", "clusterctl check: image-incomplete"),
        127: ("the image has no python3", "clusterctl check: image-incomplete"),
    }
