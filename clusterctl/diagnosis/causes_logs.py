"""Causes seen in the logs of vLLM, Ray and NCCL."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from clusterctl.diagnosis.cause import Cause, Certainty
from clusterctl.diagnosis.evidence import Evidence
from clusterctl.signatures import nccl as nccl_log
from clusterctl.signatures import vllm as vllm_log
from clusterctl.signatures.signature import ANSI, Explanation
from clusterctl.signatures.text import shortened

LONGEST_LINE = 4000
"""Characters of a line that are looked at: some patterns take quadratic time on lines that are made for it."""


_OF_THE_NETWORK = re.compile(r"NCCL|NET/|nccl|Gloo|gloo|TCPStore|c10d|DistBackend|ibv_")
"""NCCL's table is applied to lines about the network only: "Connection refused" alone says too little."""


LOG_STAMP = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?Z ")
"""What the engine puts before every line when timestamps are asked for (RFC 3339, UTC)."""


def log_causes(evidence: Evidence) -> Iterator[Cause]:
    """Known lines. On a cluster that serves they belong to the past, and say nothing."""
    for name, node in evidence.nodes.items():
        for container in node.containers or ():
            for certainty, hit, t in hits_in(container.log, evidence.survived_t):
                if not evidence.serving:
                    yield log_cause(name, certainty, hit, t)
        if not evidence.serving:
            for file, text in node.ray.items():
                for _, hit, t in hits_in(text, None):
                    yield replace(
                        log_cause(name, Certainty.POSSIBLE, hit, t),
                        seen=(shortened(f"{file}: {hit.line}"),),
                        why="only Ray's own log contains it",
                    )


def log_cause(node: str, certainty: Certainty, hit: Explanation, t: float | None) -> Cause:
    """A known line of a container's log as a cause."""
    why = {
        Certainty.LIKELY: "it is a known line, and nothing before it explains it",
        Certainty.POSSIBLE: "it is a known line, but a healthy start may print it too",
    }[certainty]
    code = hit.failure_mode or "log"
    return Cause(certainty, (node,), code, (shortened(hit.line),), hit.meaning, hit.fix, why, t, hit.signature)


def hits_in(text: str, since: float | None) -> Iterator[tuple[Certainty, Explanation, float | None]]:
    """Lines of a log that are explained, with their time; of NCCL's table only lines about the network. Those that
    are known to be older than `since` are left out."""
    stamped = ANSI.sub("", text).splitlines()
    times: dict[str, float | None] = {}
    for line in stamped:
        stamp, bare = _unstamped(line)
        if stamp is not None and since is not None and stamp < since:
            continue
        if len(bare) > LONGEST_LINE:
            bare = f"{bare[: LONGEST_LINE // 2]} … {bare[-LONGEST_LINE // 2 :]}"
        times.setdefault(bare, stamp)
    lines = list(times)
    found = [*vllm_log.causes(lines), *nccl_log.causes([line for line in lines if _OF_THE_NETWORK.search(line)])]
    for hit in with_the_unknown(lines, list(each_once(found))):
        t = next((times[line] for line in lines if line.strip() == hit.line), None)
        yield (Certainty.POSSIBLE if hit.signature.harmless else Certainty.LIKELY), hit, t


def with_the_unknown(lines: Sequence[str], hits: Sequence[Explanation]) -> Iterator[Explanation]:
    """What is known; without a known reason also the last error before the first consequence.

    A failure of NCCL's that nothing else explains is shown with NCCL's own words; where those are a known line, that
    line's meaning and fix stand first, instead of the advice to ask for them.
    """
    reasons = [hit for hit in hits if not hit.signature.consequence and not hit.signature.harmless]
    failed = not reasons and any(hit.name == "nccl-failed" for hit in hits)
    words = vllm_log.nccl_words(lines) if failed else None
    known = [hit for hit in hits if words is not None and hit.name != "nccl-failed" and hit.line.strip() == words]
    yield from known
    for hit in hits:
        if (hit.name == "nccl-failed" and known) or hit in known:
            continue
        yield replace(hit, line=words) if hit.name == "nccl-failed" and words is not None else hit
    last = vllm_log.last_error(lines) if not reasons else None
    if last is not None and not any(hit.signature.expression.search(last) for hit in hits):
        yield Explanation(vllm_log.UNKNOWN_ERROR, last)


def each_once(hits: Iterable[Explanation]) -> Iterator[Explanation]:
    """Each line once, with its most specific meaning, and each failure mode once: two tables may know the same."""
    lines, numbers = set[str](), set[str]()
    for hit in hits:
        if hit.line not in lines and hit.failure_mode not in numbers:
            yield hit
        lines.add(hit.line)
        if hit.failure_mode is not None:
            numbers.add(hit.failure_mode)


def _unstamped(line: str) -> tuple[float | None, str]:
    """A line's time as the engine put it (Unix seconds), and the line without it."""
    stamp = LOG_STAMP.match(line)
    if not stamp:
        return None, line
    t = datetime.fromisoformat(stamp[1]).replace(tzinfo=UTC).timestamp() + float(f"0{stamp[2] or '.0'}")
    return t, line[stamp.end() :]


def unstamped(text: str) -> list[str]:
    """A log's lines without the engine's times."""
    return [_unstamped(line)[1] for line in text.splitlines()]
