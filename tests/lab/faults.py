"""What breaks on real machines, as functions on a lab; and a client that keeps asking while it does."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from types import TracebackType
from typing import Self
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from clusterctl.lab import lab as labs
from clusterctl.lab.commands import CommandError
from clusterctl.lab.lab import Lab

REQUEST_TIMEOUT_S = 30
"""What the client waits for an answer."""
CLIENTS = 4


@dataclass(frozen=True)
class Fault:
    """Something that breaks, and what mends the machine again (never the cluster: that is clusterctl's)."""

    name: str
    inject: Callable[[Lab], None]
    mend: Callable[[Lab], None] | None = None
    mend_after_s: float = 0.0
    """Seconds until the machine is mended; the recovery is measured from then on."""


class NotInjectedError(Exception):
    """There was nothing to break at that moment: what follows says nothing about the fault."""


def kill_container(lab: Lab, node: str, cluster: str) -> None:
    """SIGKILL to a container's first process, as the kernel's OOM killer does. (`docker kill` would count as a
    person's wish, which the engine's restart policy respects.)"""
    pid = lab.exec(node, ["docker", "inspect", "-f", "{{.State.Pid}}", f"{cluster}-node"]).strip()
    if pid == "0":  # to `kill` that is the caller's own process group
        raise NotInjectedError(f"{node}: the container has no process")
    lab.exec(node, ["kill", "-KILL", pid])


def signal_process(lab: Lab, node: str, signal: str, pattern: str) -> None:
    """A signal to every process of that node (its own PID namespace) whose command line or name matches.

    Raises NotInjectedError where there is none.
    """
    try:
        lab.exec(node, ["pkill", f"-{signal}", "-f", pattern])
    except CommandError as error:
        raise NotInjectedError(f"{node}: no process {pattern!r} took the signal") from error


def restart_engine(lab: Lab, node: str, signal: str) -> None:
    """End the engine; the node's init starts it again, as a service manager does."""
    pid = lab.exec(node, ["cat", "/run/docker.pid"]).strip()
    lab.exec(node, ["kill", f"-{signal}", pid])


def while_serving(cluster: str) -> Mapping[str, Fault]:
    """Faults of a cluster that serves, by name. node1 is the head."""
    faults = [
        Fault("worker container killed", lambda lab: kill_container(lab, "node2", cluster)),
        Fault("head container killed", lambda lab: kill_container(lab, "node1", cluster)),
        Fault("worker raylet killed", lambda lab: signal_process(lab, "node2", "KILL", "raylet/raylet")),
        Fault("vLLM killed -9", lambda lab: signal_process(lab, "node1", "KILL", "clusterctl_agent server")),
        Fault("vLLM engine killed -9", lambda lab: signal_process(lab, "node1", "KILL", "VLLM::EngineCore")),
        Fault("vLLM engine SIGSTOPped", lambda lab: signal_process(lab, "node1", "STOP", "VLLM::EngineCore")),
        Fault("vLLM API SIGSTOPped", lambda lab: signal_process(lab, "node1", "STOP", "clusterctl_agent server")),
        Fault("vLLM rank SIGSTOPped", lambda lab: signal_process(lab, "node2", "STOP", "ray::RayWorkerProc")),
        Fault("head Ray killed", lambda lab: signal_process(lab, "node1", "KILL", "gcs/gcs_server")),
        Fault("head raylet killed", lambda lab: signal_process(lab, "node1", "KILL", "raylet/raylet")),
        Fault(
            "worker node off, on after 15 s",
            lambda lab: labs.power_off(lab, "node2"),
            lambda lab: labs.power_on(lab, "node2"),
            15,
        ),
        Fault(
            "head node off, on after 15 s",
            lambda lab: labs.power_off(lab, "node1"),
            lambda lab: labs.power_on(lab, "node1"),
            15,
        ),
        Fault("partition of 30 s", lambda lab: labs.partition(lab, "node2"), lambda lab: labs.heal(lab, "node2"), 30),
        Fault("partition of 5 min", lambda lab: labs.partition(lab, "node2"), lambda lab: labs.heal(lab, "node2"), 300),
        Fault("engine restarted on worker", lambda lab: restart_engine(lab, "node2", "TERM")),
        Fault("engine restarted on head", lambda lab: restart_engine(lab, "node1", "TERM")),
        Fault("engine killed -9 on worker", lambda lab: restart_engine(lab, "node2", "KILL")),
    ]
    return {fault.name: fault for fault in faults}


@dataclass(frozen=True)
class Asked:
    """One request: when it was sent, how long it took (seconds), and what came of it (None: a completion)."""

    began: float
    seconds: float
    error: str | None


@dataclass
class Load:
    """A steady load: CLIENTS threads, each with one request at a time. A context manager."""

    url: str
    model: str
    key: str = ""
    tokens: int = 16
    asked: list[Asked] = field(default_factory=list)
    running: dict[int, float] = field(default_factory=dict)
    """When the request that a client now waits for was sent, by client."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        turns = range(CLIENTS)
        self._threads = [threading.Thread(target=self._ask_on, args=(turn,), daemon=True) for turn in turns]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(REQUEST_TIMEOUT_S + 5)
            assert not thread.is_alive(), "a request hangs past its time-out"

    def _ask_on(self, turn: int) -> None:
        self._stop.wait(0.3 * turn)  # not in step, so that at any moment a request is running
        while not self._stop.is_set():
            began = time.monotonic()
            self.running[turn] = began
            error = complete(self.url, self.model, self.tokens, self.key)
            self.asked.append(Asked(began, time.monotonic() - began, error))
            del self.running[turn]
            self._stop.wait(0.2)

    def first_success_after(self, moment: float) -> Asked | None:
        """The first request that was sent after a moment and completed."""
        return min((a for a in self.asked if a.error is None and a.began > moment), key=lambda a: a.began, default=None)

    def waits_s(self) -> float:
        """How long the oldest request has been waited for that has no answer yet, in seconds; 0 where there is none."""
        now = time.monotonic()
        return max((now - began for began in list(self.running.values())), default=0.0)

    def failed(self) -> list[Asked]:
        """Requests that brought no completion."""
        return [each for each in self.asked if each.error is not None]

    def wait(self, happened: Callable[[], object], deadline_s: float, what: str) -> None:
        """Wait until something is true of the requests so far."""
        deadline = time.monotonic() + deadline_s
        while not happened():
            assert time.monotonic() < deadline, f"no {what} within {deadline_s:g} s; last: {self.asked[-3:]}"
            time.sleep(0.1)


def complete(
    url: str, model: str, tokens: int, key: str = "", *, timeout_s: float = REQUEST_TIMEOUT_S, engine: int | None = None
) -> str | None:
    """Ask for a completion, of any engine or of the one of this rank.

    Returns None when all tokens came, else what went wrong.
    """
    body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": tokens, "ignore_eos": True}).encode()
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    if engine is not None:
        headers["X-data-parallel-rank"] = str(engine)
    try:
        with urlopen(Request(f"{url}/v1/completions", body, headers), timeout=timeout_s) as answer:  # noqa: S310
            made = json.loads(answer.read())["usage"]["completion_tokens"]
    except (URLError, HTTPException, OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return None if made == tokens else f"{made} tokens of {tokens}"


@dataclass
class Knocks:
    """Somebody who knocks at the API's port, a new connection every 50 ms, and asks for /health: whether anything
    answers there. A context manager."""

    url: str
    met: list[tuple[float, str]] = field(default_factory=list)
    """When, and what: a status code; `refused`; `reset` (taken, and closed without an answer); `silent`."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._knock_on, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(KNOCK_TIMEOUT_S + 5)

    def _knock_on(self) -> None:
        parts = urlsplit(self.url)
        while not self._stop.wait(0.05):
            moment = time.monotonic()
            self.met.append((moment, knock(parts.hostname or "", parts.port or 80)))

    def of(self, what: str) -> list[float]:
        """The moments at which it met that."""
        return [moment for moment, met in self.met if met == what]

    def span_s(self, what: str) -> float:
        """Seconds from the first to the last one of that; 0 for none."""
        moments = self.of(what)
        return moments[-1] - moments[0] if moments else 0.0


KNOCK_TIMEOUT_S = 2


def knock(host: str, port: int) -> str:
    """One connection, one question (`Knocks.met`)."""
    try:
        with socket.create_connection((host, port), timeout=KNOCK_TIMEOUT_S) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = client.recv(4096)
    except ConnectionRefusedError:
        return "refused"
    except ConnectionError:
        return "reset"
    except OSError:  # a time-out, no route
        return "silent"
    return answer.split(b" ", 2)[1].decode() if answer.startswith(b"HTTP/") else "reset"


@dataclass(frozen=True)
class Recovery:
    """What a fault did to the clients, and how long the way back took."""

    fault: str
    outage_s: float
    """From the last request that was sent before the fault to the first one after it that completed."""
    recovery_s: float
    """From the fault, or from the moment that the machine was mended, to the first completion."""
    requests: int
    failed: int
    longest_s: float
    timed_out: int = 0
    """Requests that hung until their own time-out ended them."""
    refused: int = 0
    """Connections to the API's port that were refused, of one every 50 ms."""
    refused_s: float = 0.0
    """From the first to the last one of them."""
    reset: int = 0
    """Connections that were closed without an answer."""
    restarts: tuple[str, ...] = ()


def suffer(
    lab: Lab, fault: Fault, load: Load, deadline_s: float, *, noticed: Callable[[], bool] = lambda: True
) -> Recovery:
    """Break something under load, and wait until the endpoint answers steadily again.

    `noticed`: whether the cluster has done anything about it. With several engines the others answer for seconds, so
    requests alone do not tell that it is over.
    """
    load.wait(lambda: len(load.asked) > CLIENTS, 60, "requests before the fault")
    with Knocks(load.url) as knocks:
        result = _suffer(lab, fault, load, deadline_s, noticed)
    return replace(
        result,
        refused=len(knocks.of("refused")),
        refused_s=round(knocks.span_s("refused"), 1),
        reset=len(knocks.of("reset")),
    )


def _suffer(lab: Lab, fault: Fault, load: Load, deadline_s: float, noticed: Callable[[], bool]) -> Recovery:
    before = len(load.asked)
    broken = time.monotonic()
    fault.inject(lab)
    if fault.mend is not None:
        time.sleep(fault.mend_after_s)
        fault.mend(lab)
    mended = time.monotonic() if fault.mend is not None else broken
    # Whether it hurt at all shows in requests that were sent after the fault.
    load.wait(lambda: any(a.began > mended for a in load.asked), deadline_s, "request after the fault")
    first: Asked | None = None
    steady = 0.0

    def recovered() -> bool:
        nonlocal first, steady
        wrong = [a for a in load.asked if a.error is not None]
        last_wrong = max((a.began + a.seconds for a in wrong), default=broken)
        first = load.first_success_after(max(broken, last_wrong))
        steady = time.monotonic() - max(last_wrong, mended)
        # A request that still hangs, while others are answered, is part of the outage: it is waited for and counted.
        return first is not None and steady > STEADY_S and load.waits_s() < STEADY_S / 4 and noticed()

    load.wait(recovered, deadline_s, "recovery")
    assert first is not None
    during = load.asked[before:]
    return Recovery(
        fault.name,
        outage_s=round(first.began + first.seconds - broken, 1),
        recovery_s=round(max(0.0, first.began + first.seconds - mended), 1),
        requests=len(during),
        failed=sum(a.error is not None for a in during),
        longest_s=round(max(a.seconds for a in during), 1),
        timed_out=sum(a.error is not None and a.seconds >= REQUEST_TIMEOUT_S for a in during),
    )


STEADY_S = 12
"""Seconds without a failure after which the endpoint counts as back: a fault that has not hurt yet does so sooner."""
