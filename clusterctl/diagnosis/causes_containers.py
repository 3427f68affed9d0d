"""Causes seen in the state of the containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from clusterctl.diagnosis.cause import Cause, Certainty
from clusterctl.diagnosis.evidence import ContainerEvidence, Evidence
from clusterctl.hosts.engine.commands import EngineCommands
from clusterctl.signatures import vllm as vllm_log
from clusterctl.signatures.text import shortened


def container_causes(evidence: Evidence) -> Iterator[Cause]:
    """What the engine reports about each container."""
    for name, node in evidence.nodes.items():
        for container in node.containers or ():
            yield from _state(name, container, node.commands)
        if node.containers == () and evidence.containers:
            yield Cause(
                Certainty.LIKELY,
                (name,),
                "container-absent",
                ("no container of this cluster",),
                "the other nodes have their container, this one has none: it was removed, or never created",
                "clusterctl up",
                "the cluster needs all of its nodes",
            )


def _state(node: str, container: ContainerEvidence, commands: EngineCommands) -> Iterator[Cause]:
    def cause(certainty: Certainty, code: str, *texts: str) -> Cause:
        seen, meaning, fix, why = texts
        return Cause(certainty, (node,), code, (shortened(seen),), meaning, fix, why)

    if container.oom_killed:
        yield cause(
            Certainty.CERTAIN,
            "oom-killed",
            f"container {container.name}: OOMKilled, exit code {container.exit_code}",
            "the kernel killed the container's process: its memory limit or the node's memory was reached",
            "free memory on the node, lower ray.object_store_bytes, or move other work to another machine",
            "the engine recorded it",
        )
    elif container.error and not container.running:
        yield _not_started(node, container.error)
    elif container.status == "exited" and (died := _deaths(commands).get(container.exit_code)):
        meaning, fix = died
        yield cause(
            Certainty.LIKELY,
            f"exit-{container.exit_code}",
            f"container {container.name}: exited with code {container.exit_code}",
            meaning,
            fix,
            "the engine recorded it, but not who did it",
        )
    elif container.status == "paused":
        yield cause(
            Certainty.CERTAIN,
            "container-paused",
            f"container {container.name}: paused",
            "it was paused: nothing in it runs",
            f"on the node: {commands.unpause(container.name)}",
            "the engine reports it",
        )


def _not_started(node: str, error: str) -> Cause:
    """Why the engine did not start a container, in its own words."""
    code, meaning = "container-start", "the engine could not start the container"
    fix, signature = "clusterctl check runs the image with the same flags and explains the error", None
    for known in vllm_log.causes([error])[:1]:
        code, meaning, fix, signature = known.failure_mode or code, known.meaning, known.fix, known.signature
    why = "the engine recorded it"
    return Cause(Certainty.CERTAIN, (node,), code, (shortened(error),), meaning, fix, why, signature=signature)


def idle_cause(node: str, container: ContainerEvidence, commands: EngineCommands) -> Cause | None:
    """Why a container is idle, where no other cause is known on its node."""
    certainty, phase = Certainty.LIKELY, container.agent.phase
    if container.status == "created":
        code, seen, meaning = "container-created", "created, never started", "a run of `up` was interrupted"
        fix = "clusterctl up"
    elif container.status == "exited" and container.exit_code == 0:
        code, seen = "container-stopped", "exited with code 0"
        meaning = f"it was stopped ({commands.stop}, or an interrupted `down`) and not started again"
        fix = "clusterctl up"
    elif container.status == "exited":
        code, seen = f"exit-{container.exit_code}", f"exited with code {container.exit_code}"
        meaning = "its first process ended for an unknown reason"
        fix = f"read its last lines: clusterctl logs --node {node}"
    elif container.running and phase in ("draining", "drained"):
        code, seen = str(phase), f"its agent is {phase}"
        meaning = "the server was stopped by a `down` or an `up` that has not finished, or was interrupted"
        fix = "clusterctl history shows whose run it was; then clusterctl up or down"
    else:
        return None
    seen = f"container {container.name}: {seen}"
    why = "nothing else is known about this node, and the cluster cannot serve like this"
    return Cause(certainty, (node,), code, (seen,), meaning, fix, why, container.agent.since)


def _deaths(commands: EngineCommands) -> Mapping[int, tuple[str, str]]:
    """Exit code of a container → meaning and fix (128 + the signal's number; 125 to 127 are the engine's own)."""
    return {
        137: (
            "its first process was killed (SIGKILL): by an operator, a stop that took too long, or for lack of memory",
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
