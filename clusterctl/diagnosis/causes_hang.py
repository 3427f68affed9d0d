"""For whom everybody waits while completions hang: from what every node's processes, and NCCL, say of it at that moment
(clusterctl/agent/inside/hang.py)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from clusterctl.diagnosis.cause import SHOWN_LINES, Cause, Certainty
from clusterctl.diagnosis.evidence import ContainerEvidence, Evidence
from clusterctl.signatures.text import shortened

CODE = "hang"
RANK_LINE = re.compile(r"pid=(\d+)(?:, ip=([\d.]+))?\).*\bworld_size=\d+ rank=(\d+)")
"""Of a rank's start, in the log of the head over Ray, else of its own node (vLLM 0.32)."""
STATES: Mapping[str, str] = {
    "T": "stopped by a signal (SIGSTOP)",
    "t": "stopped by a debugger",
    "D": "asleep in the kernel, and cannot be woken (disk, network file system, driver)",
    "Z": "ended, and not collected",
    "X": "ended",
    "R": "running",
    "S": "asleep",
    "gone": "ended",
}
"""What a process's state in /proc means (proc(5))."""
STOPPED = ("T", "t")
BUSY, IDLE = 0.5, 0.1
"""Shares of one core that a process uses: it computes, or spins; it does nothing."""


@dataclass(frozen=True)
class Suspect:
    """A process of the server."""

    node: str
    process: Mapping[str, Any]
    seconds: float
    """For how long its CPU time was watched."""
    rank: int | None

    @property
    def share(self) -> float:
        """Of one core."""
        used = self.process.get("used_s")
        return used / self.seconds if isinstance(used, int | float) and self.seconds else 0.0

    @property
    def named(self) -> str:
        """For sentences."""
        rank = f"rank {self.rank}, " if self.rank is not None else ""
        return f"{rank}process {self.process['pid']} ({self.process['name']}) on {self.node}"

    @property
    def line(self) -> str:
        """What was seen of it."""
        process = self.process
        state = str(process["state"])
        asleep = f", in {process['sleeps_in']}" if process.get("sleeps_in") else ""
        stack = " < ".join(frame.partition("] ")[2].partition("+")[0] for frame in process.get("stack") or ()[:4])
        return shortened(
            f"{self.named}: state {state} ({STATES.get(state, 'unknown')}){asleep}, "
            f"{process.get('used_s') or 0:g} s of CPU in {self.seconds:g} s"
            + (f"; kernel stack: {stack}" if stack else "")
        )


def hang_causes(evidence: Evidence) -> Iterator[Cause]:
    """What stands out, by the surest witness that names anybody; nothing where completions come."""
    if not evidence.hung:
        return
    suspects = [*_suspects(evidence)]
    how = _how(evidence)
    for witness in (_missing, _stopped, _ended, _in_the_kernel, _behind, _alone_at_work):
        causes = [*witness(evidence, suspects)]
        if causes:
            yield from (replace(cause, seen=(how, *cause.seen)) for cause in causes)
            return
    yield Cause(
        Certainty.POSSIBLE,
        (evidence.head,),
        CODE,
        (how, *(suspect.line for suspect in suspects[: SHOWN_LINES - 1])),
        "completions hang, and no process stands out: none is stopped, has ended or is stuck in the kernel",
        "look at the network between the nodes (clusterctl check --deep); then clusterctl restart",
        "the engine makes no progress, and what each process does is in hang.json of the bundle",
    )


def _how(evidence: Evidence) -> str:
    """That completions hang, in a line."""
    for node in evidence.nodes.values():
        for container in node.containers or ():
            silent = [each for each in container.hang.get("completions", ()) if each.get("problem")]
            for each in silent:
                if each["engine"] is None:
                    return f"{each['problem']}, and /metrics does not answer either"
                return f"{each['problem']} of engine {each['engine']}, whose counters stand still"
    return "completions hang"


# The witnesses.


def _missing(evidence: Evidence, suspects: Sequence[Suspect]) -> Iterator[Cause]:
    for named, suspect, node in _of_nccl(evidence, suspects, "missing"):
        state = str(suspect.process["state"]) if suspect else ""
        does = f"it is {STATES[state]}" if state in STATES and state not in "RS" else "it does not answer NCCL"
        yield Cause(
            Certainty.CERTAIN,
            (node,),
            CODE,
            (_nccl_line(named), *((suspect.line,) if suspect else ())),
            f"everybody waits for {suspect.named if suspect else _nccl_name(named, node)}: {does}",
            _fix_of(suspect, node),
            "NCCL's own processes (RAS) miss it in every communicator",
        )


def _stopped(_: Evidence, suspects: Sequence[Suspect]) -> Iterator[Cause]:
    yield from _with_state(suspects, ("T", "t"), Certainty.CERTAIN, "a process that is stopped answers nobody")


def _ended(_: Evidence, suspects: Sequence[Suspect]) -> Iterator[Cause]:
    yield from _with_state(suspects, ("Z", "X", "gone"), Certainty.LIKELY, "it ended while the others wait")


def _in_the_kernel(_: Evidence, suspects: Sequence[Suspect]) -> Iterator[Cause]:
    idle = [suspect for suspect in suspects if suspect.share < IDLE]
    yield from _with_state(idle, ("D",), Certainty.LIKELY, "the kernel does not come back to it, and it used no CPU")


def _with_state(
    suspects: Sequence[Suspect], states: tuple[str, ...], certainty: Certainty, why: str
) -> Iterator[Cause]:
    for suspect in suspects:
        state = str(suspect.process["state"])
        if state in states:
            meaning = f"everybody waits for {suspect.named}: it is {STATES[state]}"
            fix = _fix_of(suspect, suspect.node)
            yield Cause(certainty, (suspect.node,), CODE, (suspect.line,), meaning, fix, why)


def _behind(evidence: Evidence, suspects: Sequence[Suspect]) -> Iterator[Cause]:
    for named, suspect, node in _of_nccl(evidence, suspects, "behind"):
        yield Cause(
            Certainty.LIKELY,
            (node,),
            CODE,
            (_nccl_line(named), *((suspect.line,) if suspect else ())),
            f"everybody waits for {suspect.named if suspect else _nccl_name(named, node)}: it has begun fewer "
            "operations of NCCL than the others",
            _fix_of(suspect, node),
            "NCCL's own processes (RAS) count what each rank has begun, and the engine makes no progress",
        )


def _alone_at_work(_: Evidence, suspects: Sequence[Suspect]) -> Iterator[Cause]:
    busy = [suspect for suspect in suspects if suspect.share > BUSY]
    if len(busy) == 1 and all(suspect.share < IDLE for suspect in suspects if suspect is not busy[0]):
        yield Cause(
            Certainty.POSSIBLE,
            (busy[0].node,),
            CODE,
            (busy[0].line,),
            f"the others are idle, and {busy[0].named} uses its CPU: it computes or spins",
            f"clusterctl logs --node {busy[0].node} shows what it did last; then clusterctl restart",
            "it is the only one of the server's processes that does anything",
        )


# Who it is.


def _suspects(evidence: Evidence) -> Iterator[Suspect]:
    for name, node in evidence.nodes.items():
        for container in node.containers or ():
            seconds = float(container.hang.get("seconds") or 0)
            for process in container.hang.get("processes", ()):
                yield Suspect(name, process, seconds, _rank(evidence, name, container, process["pid"]))


def _rank(evidence: Evidence, node: str, container: ContainerEvidence, pid: int) -> int | None:
    """The rank of a process, as the log of its start says: its own node's, or over Ray the head's."""
    ranks = {}
    of_head = evidence.nodes[evidence.head].containers if evidence.head in evidence.nodes else ()
    for log, own in ((container.log, True), *((each.log, node == evidence.head) for each in of_head or ())):
        for said, address, rank in RANK_LINE.findall(log):
            if address == container.hang.get("address") or (not address and own):
                ranks[int(said)] = int(rank)
    return ranks.get(pid)


def _of_nccl(
    evidence: Evidence, suspects: Sequence[Suspect], what: str
) -> Iterator[tuple[Mapping[str, Any], Suspect | None, str]]:
    """Whom NCCL names: as it says, as the process that its node knows, and the node."""
    reports = [c.hang for node in evidence.nodes.values() for c in node.containers or () if c.hang]
    addresses = {c.hang.get("address"): n for n, node in evidence.nodes.items() for c in node.containers or ()}
    told = {(each["node"], each["pid"]): each for report in reports for each in report["ras"].get(what, ())}
    for (address, pid), named in told.items():
        node = addresses.get(address, address)
        own = (suspect for suspect in suspects if (suspect.node, suspect.process["pid"]) == (node, pid))
        found = next(own, None)
        if found is not None and found.rank is None:
            found = replace(found, rank=named.get("rank"))
        yield named, found, node


def _nccl_line(named: Mapping[str, Any]) -> str:
    rank = f"rank {named['rank']}, " if "rank" in named else ""
    return f"NCCL RAS names {rank}process {named['pid']} on node {named['node']}, GPU {named['gpu']}"


def _nccl_name(named: Mapping[str, Any], node: str) -> str:
    rank = f"rank {named['rank']}, " if "rank" in named else ""
    return f"{rank}process {named['pid']} on {node}"


def _fix_of(suspect: Suspect | None, node: str) -> str:
    """What to do about a process in its state."""
    state = str(suspect.process["state"]) if suspect is not None else ""
    if suspect is not None and state in STOPPED:
        return (
            f"clusterctl exec {node} -- python3 -c 'import os; os.kill({suspect.process['pid']}, 18)' lets it go "
            "on; find out who stopped it"
        )
    if state == "D":
        return f"on {node}: dmesg (Xid lines of the driver, a network file system); what stays so ends with a reboot"
    return f"clusterctl logs --node {node}; dmesg there; then clusterctl restart"
