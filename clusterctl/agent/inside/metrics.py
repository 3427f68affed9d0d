"""What the agent knows of its node, for Prometheus: its text format (version 0.0.4) on a port of the private network.

Off until settings.json names an address and a port (`metrics_port` in the inventory), and then without a restart. There
is no secret in it, and nothing can be asked for but this one page. It never keeps a server from serving: while the port
is taken the reason is written down, and it is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .node import Node

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LOOK_S = 2.0
"""Between looks at whether, and where, it shall listen."""
REQUEST_S = 5.0
"""For a client to say what it wants, and to take the answer."""
MAX_CONNECTIONS = 16
"""More are closed unanswered: two or three Prometheus servers ask, each every few seconds."""
LABELS = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Sample = tuple[Mapping[str, str], float]


class Exporter:
    """Listens where the settings say, for as long as they do."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.began = time.time()
        self.server: asyncio.Server | None = None
        self.where: tuple[str, int] | None = None
        self.said = ""
        """Why it does not listen, as it was last written down."""
        self.open_connections = 0

    async def keep(self) -> None:
        """Listen where the settings say, and not where they no longer do."""
        while True:
            await self.follow(self.node.settings().get("metrics"))
            await asyncio.sleep(LOOK_S)

    async def follow(self, asked: object) -> None:
        """{"host", "port"}, or None: do not listen."""
        where = (str(asked["host"]), int(asked["port"])) if isinstance(asked, dict) else None
        if where != self.where:
            self.close()
            self.where, self.said = where, ""
        if where is not None and self.server is None:
            try:
                self.server = await asyncio.start_server(self._answer, *where)
            except OSError as error:
                if str(error) != self.said:
                    self.said = str(error)
                    self.node.journal.event("metrics-port-closed", why=self.said)

    def close(self) -> None:
        """Listen no longer."""
        if self.server is not None:
            self.server.close()
            self.server = None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer."""
        self.open_connections += 1
        try:
            if self.open_connections <= MAX_CONNECTIONS:
                async with asyncio.timeout(REQUEST_S):
                    writer.write(self.reply(await reader.readuntil(b"\r\n\r\n")))
                    await writer.drain()
        except (OSError, EOFError, asyncio.LimitOverrunError):  # TimeoutError and IncompleteReadError among them
            pass
        finally:
            self.open_connections -= 1
            with contextlib.suppress(OSError):
                writer.close()

    def reply(self, request: bytes) -> bytes:
        """The whole HTTP answer."""
        method, _, rest = request.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        status, kind, body = "200 OK", CONTENT_TYPE, b""
        if method not in (b"GET", b"HEAD"):
            status, kind, body = "405 Method Not Allowed", "text/plain", b"only GET\n"
        elif path != b"/metrics":
            status, kind, body = "404 Not Found", "text/plain", b"only /metrics\n"
        else:
            body = page(self.node, self.began).encode()
        lines = (
            f"HTTP/1.1 {status}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            "\r\n",
        )
        return "\r\n".join(lines).encode() + (b"" if method == b"HEAD" else body)


def page(node: Node, began: float) -> str:
    """Everything, in Prometheus' text format."""
    return "".join(f"{line}\n" for family in _families(node, began) for line in family)


def _families(node: Node, began: float) -> Iterator[list[str]]:
    state, label = node.journal.state, {"phase": str(node.journal.state.get("phase") or "none")}
    if state["role"] == "head":
        yield _family("ready", "gauge", "1 while completions come back from the served model.", [({}, state["ready"])])
        if node.unavailable.where:
            refused: list[Sample] = [({}, float(node.unavailable.refused))]
            yield _family(
                "refused_requests_total", "counter", "Requests that the agent answered with 503: no server.", refused
            )
    if canaries := node.canaries:
        took = [({"engine": str(engine)}, seconds) for engine, (_, seconds) in sorted(canaries.items())]
        when = [({"engine": str(engine)}, at) for engine, (at, _) in sorted(canaries.items())]
        yield _family("canary_latency_seconds", "gauge", "What the last one-token completion took.", took)
        yield _family("canary_timestamp_seconds", "gauge", "When the last one-token completion came back.", when)
    counts = state["restart_counts"]
    restarts = [
        ({"scope": scope, "reason": reason}, float(count))
        for scope in sorted(counts)
        for reason, count in sorted(counts[scope].items())
    ]
    yield _family("restarts_total", "counter", "What the agent has started again, by scope and reason.", restarts)
    yield _family(
        "failures_in_a_row", "gauge", "Failures since it last served for a minute.", [({}, state["failures"])]
    )
    phases = state.get("start_phases") or {}
    spent = [({"phase": phase}, float(seconds)) for phase, seconds in phases.items()]
    yield _family("start_phase_seconds", "gauge", "Time in each phase of the last start that came to serve.", spent)
    yield _family("agent_phase", "gauge", "1, with the phase that the agent is in.", [(label, 1)])
    since: list[Sample] = [({}, float(state.get("since") or began))]
    yield _family("agent_phase_timestamp_seconds", "gauge", "When the agent entered that phase.", since)
    yield _family("agent_start_timestamp_seconds", "gauge", "When the agent started.", [({}, began)])


def _family(name: str, kind: str, says: str, samples: Iterable[Sample]) -> list[str]:
    """Its lines; none where nothing is to be said."""
    lines = [f"clusterctl_{name}{_labels(labels)} {_number(value)}" for labels, value in samples]
    return [f"# HELP clusterctl_{name} {says}", f"# TYPE clusterctl_{name} {kind}", *lines] if lines else []


def _labels(labels: Mapping[str, str]) -> str:
    inside = ",".join(f'{name}="{value.translate(LABELS)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _number(value: Any) -> str:
    return repr(round(float(value), 6))
