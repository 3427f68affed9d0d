"""The API's port while no server listens: the agent's own answers, and how the kernel hands the port over and back."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import httpx
import pytest

from clusterctl.agent.inside import api, children, unavailable
from clusterctl.agent.inside.journal import Journal
from clusterctl.agent.inside.unavailable import Unavailable
from clusterctl.agent.paths import ANSWERS_AS, SERVER_PATH
from clusterctl.facts.fact import Unknown
from clusterctl.planning.container import container_specs
from clusterctl.status import server as status_server
from tests.unit.support import deployment
from tests.unit.test_agent import ALONE, PATIENCE_S, STAND_INS, Start, ask, free_port, start

__all__ = ["start"]  # the fixture

pytestmark = pytest.mark.timeout(60)


class Listening:
    """The agent's listener, in a thread of its own. A context manager."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **where: Any) -> None:
        monkeypatch.setattr("clusterctl.agent.inside.journal.STATE_DIR", folder)
        self.port = free_port()
        self.where = {"host": "127.0.0.1", "port": self.port, **where}
        self.unavailable = Unavailable(Journal("node1", "head"))
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def do(self, job: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(job, self.loop).result(10)

    def __enter__(self) -> Self:
        self.thread.start()
        self.do(self.unavailable.open(self.where))
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            self.unavailable.close()
            answering = tuple(self.unavailable.answering)
            for task in answering:
                task.cancel()
            await asyncio.gather(*answering, return_exceptions=True)

        self.do(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    def get(self, path: str = "/v1/models", method: str = "GET", body: bytes | None = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path, body)
        answer = connection.getresponse()
        answer.text = answer.read().decode()  # type: ignore[attr-defined]
        connection.close()
        return answer


Listen = Callable[..., Listening]


@pytest.fixture
def listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listen]:
    with contextlib.ExitStack() as stack:
        yield lambda **where: stack.enter_context(Listening(tmp_path, monkeypatch, **where))


class Knocks:
    """A client that opens one connection after the other, asks, and counts what it meets. A context manager."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.met: Counter[str] = Counter()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._knock, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(20)

    def _knock(self) -> None:
        while not self.stop.is_set():
            self.met[knock(self.port)] += 1

    def until(self, what: str) -> None:
        """Wait until it has met that once more."""
        before, deadline = self.met[what], time.monotonic() + PATIENCE_S
        while self.met[what] == before:
            assert time.monotonic() < deadline, f"no {what}: {self.met}"
            time.sleep(0.01)


def knock(port: int) -> str:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=15) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            return client.recv(65536).split(b" ", 2)[1].decode()
    except ConnectionRefusedError:
        return "refused"
    except (OSError, IndexError) as error:
        return type(error).__name__


# What it says.


def test_it_answers_503_in_the_apis_own_form_and_says_when_to_come_back(listen: Listen) -> None:
    listening = listen()
    answer = listening.get()
    assert (answer.status, answer.getheader("Server")) == (503, ANSWERS_AS)
    assert answer.getheader("Content-Type") == "application/json"
    error = json.loads(answer.text)["error"]  # type: ignore[attr-defined]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["type"]) == (503, "ServiceUnavailable")
    assert 25 < int(answer.getheader("Retry-After") or 0) <= unavailable.FIRST_START_S
    listening.unavailable.journal.state["start_s"] = 100.0
    listening.unavailable.down_since = time.monotonic() - 40
    assert listening.get().getheader("Retry-After") == "60"
    listening.unavailable.down_since = time.monotonic() - 1000
    assert listening.get().getheader("Retry-After") == "1"
    listening.unavailable.journal.state["phase"] = "restarting"
    assert listening.get().getheader("Retry-After") == "100", "the next start has not begun"
    listening.unavailable.journal.state["phase"] = "failed"
    assert "operator" in listening.get().text  # type: ignore[attr-defined]


def test_the_duration_of_the_last_start_outlives_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterctl.agent.inside.journal.STATE_DIR", tmp_path)
    first = Unavailable(Journal("node1", "head"))
    first.down_since -= 77
    first.serves()
    first.journal.save()
    assert 76 <= Unavailable(Journal("node1", "head")).retry_after_s() <= 78


@pytest.mark.parametrize(
    ("sent", "first"),
    [
        (b"HEAD /health HTTP/1.1\r\n\r\n", b"HTTP/1.1 503"),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000, b"HTTP/1.1 503"),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 200_000 + b"\r\n\r\n", b"HTTP/1.1 503"),
        (b"\x16\x03\x01 no http\r\n\r\n", b"HTTP/1.1 503"),
        (b"GET / HT", b""),
    ],
    ids=["head", "a large body", "endless headers", "garbage", "half a request"],
)
def test_whatever_is_sent_gets_the_answer_and_not_a_reset(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, sent: bytes, first: bytes
) -> None:
    monkeypatch.setattr(unavailable, "REQUEST_S", 0.5)
    with socket.create_connection(("127.0.0.1", listen().port), timeout=10) as client:
        client.sendall(sent)
        said = b"".join(iter(lambda: client.recv(65536), b""))
    assert said.startswith(first)
    assert bool(said) == bool(first)
    assert (b"{" in said) == (first != b"" and not sent.startswith(b"HEAD"))


def test_many_who_say_nothing_keep_nobody_out(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unavailable, "MAX_CONNECTIONS", 8)
    port = listen().port
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert knock(port) == "503"


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    subprocess.run(["openssl", *words, "-keyout", key, "-out", cert], check=True, capture_output=True, timeout=60)
    return cert, key


def test_with_a_certificate_it_answers_https_with_that_and_with_its_renewal(listen: Listen, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "api")
    listening = listen(certfile=str(cert), keyfile=str(key))

    def get() -> httpx.Response:
        context = ssl.create_default_context(cafile=str(cert))
        context.check_hostname = False
        return httpx.get(f"https://127.0.0.1:{listening.port}/v1/models", verify=context, trust_env=False)

    assert get().status_code == 503
    assert knock(listening.port) != "503", "it does not speak plain http"
    new_cert, new_key = certificate(tmp_path, "renewed")
    key.write_bytes(new_key.read_bytes())
    cert.write_bytes(new_cert.read_bytes())
    listening.do(listening.unavailable.open(listening.where))
    assert get().json()["error"]["code"] == 503


@pytest.mark.parametrize("content", ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None])
def test_without_a_certificate_that_can_be_read_the_port_is_closed_and_the_reason_written_down(
    listen: Listen, tmp_path: Path, content: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "c.pem").write_text(content, encoding="ascii")
    listening = listen(certfile=str(tmp_path / "c.pem"), keyfile=str(tmp_path / "c.pem"))
    assert knock(listening.port) == "refused"
    assert '"event": "api-port-closed"' in capfd.readouterr().err


# Handing over.


def test_the_second_listener_gets_every_connection_and_the_first_one_the_next_after_it(listen: Listen) -> None:
    port = listen().port
    with Knocks(port) as knocks:
        for turn in range(15):
            knocks.until("503")
            server = socket.socket()
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            server.bind(("127.0.0.1", port))
            knocks.until("503")  # bound is not listening
            server.listen(64)
            for _ in range(20):
                taken, _address = server.accept()  # the agent gets none meanwhile: this would wait
                taken.recv(1000)
                taken.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                taken.close()
            server.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while turn % 2:  # ends in peace; else with connections that it has not taken
                    server.accept()[0].close()
            server.close()
    assert knocks.met["200"] >= 300
    assert knocks.met["refused"] == 0


def test_it_listens_beside_nobody_who_was_there_before(listen: Listen, tmp_path: Path) -> None:
    for shares in (0, 1):
        with socket.socket() as stranger:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
            stranger.bind(("127.0.0.1", 0))
            stranger.listen()
            listening = listen(port=stranger.getsockname()[1])
            assert listening.unavailable.server is None
            assert listening.unavailable.said == "another process listens there"


# Which vLLM can share the port.


def module_with(make: object) -> Mapping[str, ModuleType]:
    module = ModuleType(children.SOCKETS[1])
    setattr(module, children.MAKES, make)
    return {children.SOCKETS[1]: module}


def made(addr: tuple[str, int], reuse_port: bool = False) -> socket.socket:
    sock = socket.socket()
    sock.bind(addr)
    return sock


def made_before(addr: tuple[str, int]) -> socket.socket:
    return made(addr)


def made_natively(addr: tuple[str, int]) -> socket.socket:
    sock = socket.socket()
    super(socket.socket, sock).bind(addr)
    return sock


def made_otherwise(addr: tuple[str, int], family: int) -> socket.socket:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("make", "can"), [(made, True), (made_before, True), (made_natively, False), (made_otherwise, False), (None, False)]
)
def test_whether_a_version_can_share_the_port_is_tried(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, make: object, can: bool
) -> None:
    for name, module in (module_with(make) if make else {}).items():
        monkeypatch.setitem(sys.modules, name, module)
    before, port = socket.socket.bind, listen().port
    assert children.can_share("127.0.0.1", port) is can
    assert socket.socket.bind is before
    assert knock(port) == "503"


# The agent with a server that loads.


def served(*argv: str, port: int | None = None) -> dict[str, Any]:
    """One node that serves by itself, with its API where the agent answers too; the port comes last in argv."""
    port = port or free_port()
    where = {"host": "127.0.0.1", "port": port, "certfile": None, "keyfile": None}
    process = {**ALONE["processes"][0], "alone": True}
    said = {"server_argv": [*argv, str(port)], "endpoint_port": port, "listen": where}
    return {**ALONE, "processes": [process], **said}


VLLM = ("vllm", "serve", "ok")


def test_from_the_agents_start_to_its_end_no_connection_is_refused(start: Start) -> None:
    options = served(*VLLM)
    run, port = start(adopted=True, **options), options["endpoint_port"]
    run.until_phase("loading")
    with Knocks(port) as knocks:
        knocks.until("503")
        assert "serving" not in run.phases(), "the agent's own answer is no server's"
        (run.fake / "loaded").touch()
        run.until_phase("serving")
        knocks.until("200")
        assert 0 < run.state["start_s"] < PATIENCE_S
        (run.fake / "loaded").unlink()
        pid = int((run.fake / "server.pid").read_text(encoding="ascii"))
        os.kill(pid, signal.SIGKILL)
        knocks.until("503")
        (run.fake / "loaded").touch()
        run.until(lambda: run.phases().count("serving") == 2, "a second server")
        knocks.until("200")
        (run.fake / "loaded").unlink()
        ask(run, action="restart", by="alice@laptop")
        run.until(lambda: run.phases().count("loading") == 3, "a third server")
        knocks.until("503")
        (run.fake / "loaded").touch()
        run.until(lambda: run.phases().count("serving") == 3, "a third server")
        ask(run, action="drain", by="alice@laptop", drain_s=3)
        run.until_phase("drained")
        knocks.until("503")
    assert knocks.met["refused"] == 0
    run.process.terminate()
    assert run.end() == 0
    assert knock(port) == "refused", "after the end the port is closed"


def test_a_server_that_cannot_share_the_port_gets_it_to_itself(start: Start) -> None:
    """A program in which vLLM's function is not: as a version that makes its socket in another way."""
    options = served(sys.executable, str(STAND_INS / "server.py"), "ok")
    port = options["endpoint_port"]
    run = start(**options)
    run.until_phase("serving")
    assert knock(port) == "200"
    ask(run, action="drain", by="alice@laptop", drain_s=3)
    run.until_phase("drained")
    assert knock(port) == "503"


def hang_up(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


def test_a_port_that_another_process_holds_is_the_servers_failure_as_before(start: Start) -> None:
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        threading.Thread(target=hang_up, args=(stranger,), daemon=True).start()
        run = start(**served(*VLLM, port=port))
        failed = run.failure()
    assert failed["reason"] == "server-exited"
    assert any("Address already in use" in line for line in failed["tail"])
    assert [event["why"] for event in run.events if event["event"] == "api-port-closed"] == [
        "another process listens there"
    ]


# Nobody of ours takes the agent's answer for the server's.


def test_the_agent_and_the_operators_side_know_it_from_the_servers(listen: Listen) -> None:
    port = listen().port
    asked = {"endpoint_host": "127.0.0.1", "endpoint_port": port, "model": "tiny"}
    with pytest.raises(ConnectionRefusedError):
        api.complete_one_token(asked, 5)
    assert api.requests_running(asked) is False
    assert api.progress(asked, 5) is None
    with status_server.of_the_server(httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False)) as client:
        for found in (status_server.health(client), status_server.complete(client, "tiny")):
            assert isinstance(found, Unknown)
            assert "no server listens" in found.reason


def test_both_sides_name_it_alike_and_only_the_head_is_told_where() -> None:
    assert unavailable.ANSWERS_AS == ANSWERS_AS
    tls = {"ssl-certfile": "/tls/a.pem", "ssl-keyfile": "/tls/a.key"}
    told = {name: json.loads(made.files[SERVER_PATH]) for name, made in specs(tls).items() if SERVER_PATH in made.files}
    assert told["gpu1"]["listen"] == {
        **{"host": "10.77.0.11", "port": 8000},
        **{"certfile": "/tls/a.pem", "keyfile": "/tls/a.key"},
    }
    assert told["gpu2"]["listen"] is None


def specs(options: Mapping[str, Any]) -> Mapping[str, Any]:
    return container_specs(deployment({"serve": {"executor": "mp", "options": options}}))
