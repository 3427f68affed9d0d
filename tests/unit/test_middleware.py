"""The middleware in vLLM's API server, as an ASGI server calls it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusterctl.agent.inside import clusterctl_middleware
from clusterctl.agent.inside.clusterctl_middleware import App, RefuseWhileDraining, RequireKey


def ask(
    path: str, kind: str = "http", *, made: Callable[[App], App] = RefuseWhileDraining, **scope: Any
) -> list[dict[str, Any]]:
    """What is sent back; the app behind says 200."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(dict(message))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def call() -> None:
        await made(app)({"type": kind, "path": path, "method": "POST", "headers": [], **scope}, None, send)

    asyncio.run(call())
    return sent


def test_new_requests_are_refused_only_while_it_drains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flag = tmp_path / "draining"
    monkeypatch.setattr(clusterctl_middleware, "DRAINING", flag)
    assert [message["status"] for message in ask("/v1/completions")] == [200]
    for said, seconds in (("", b"30"), ("77", b"77"), ("rubbish\r\nx: y", b"30")):
        flag.write_text(said, encoding="ascii")
        start, body = ask("/v1/completions")
        assert start["status"] == 503
        assert (b"retry-after", seconds) in start["headers"]
    assert "stopped or restarted" in json.loads(body["body"])["error"]["message"]
    assert ask("/metrics")[0]["status"] == 200
    assert ask("/", kind="lifespan")[0]["status"] == 200


def test_it_says_while_there_are_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusterctl_middleware, "DRAINING", tmp_path / "draining")
    busy = tmp_path / f"busy-{os.getpid()}"
    seen: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.01)
        seen.append(busy.exists())
        if scope["path"] == "/fails":
            raise ValueError

    async def several() -> None:
        async def send(message: Any) -> None:
            pass

        app_ = RefuseWhileDraining(app)
        paths = ["/v1/completions", "/fails", "/v1/completions"]
        await asyncio.gather(*(app_({"type": "http", "path": p}, None, send) for p in paths), return_exceptions=True)
        assert seen == [True, True, True]
        assert not busy.exists()
        await app_({"type": "http", "path": "/metrics"}, None, send)
        assert seen[3:] == [False], "who looks is none"

    asyncio.run(several())


KEY = "s3cr3t"
SENT = {"headers": [(b"host", b"x"), (b"authorization", f"Bearer {KEY}".encode())]}
WRONG = {"headers": [(b"authorization", b"Bearer s3cr3")]}


@pytest.mark.parametrize(
    ("path", "scope", "status"),
    [
        ("/v1/completions", {}, 401),
        ("/v1/completions", SENT, 200),
        ("/v1/completions", WRONG, 401),
        ("/v1/completions", {"headers": [(b"authorization", b"Basic s3cr3t")]}, 401),
        ("/v1/completions", {"headers": [(b"authorization", b"bearer s3cr3t")]}, 200),
        ("/invocations", {}, 401),
        ("/invocations", SENT, 200),
        ("/tokenize", {}, 401),
        ("/scale_elastic_ep", {}, 401),
        ("/version", {"method": "GET"}, 401),
        ("/ping", {"method": "GET"}, 200),
        ("/ping", {}, 401),  # vLLM 0.32 answers POST too
        ("/health", {"method": "GET"}, 200),
        ("/metrics", {"method": "HEAD"}, 200),
        ("/metrics/", {"method": "GET"}, 401),
        ("//health/../invocations", {"method": "GET"}, 401),
        ("/prefix/health", {"method": "GET", "root_path": "/prefix"}, 200),
        ("/invocations", {"method": "OPTIONS"}, 200),
    ],
)
def test_the_key_guards_everything_but_probes(
    path: str, scope: Any, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    answer = ask(path, made=RequireKey, **scope)
    assert answer[0]["status"] == status
    if status == 401:
        assert (b"www-authenticate", b"Bearer") in answer[0]["headers"]
        assert json.loads(answer[1]["body"])["error"]["code"] == 401


def test_the_key_guards_websockets_and_lets_what_is_no_request_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    assert ask("/v1/realtime", "websocket", made=RequireKey) == [{"type": "websocket.close", "code": 1008}]
    assert ask("/v1/realtime", "websocket", made=RequireKey, **SENT)[0]["status"] == 200
    assert ask("", "lifespan", made=RequireKey)[0]["status"] == 200


def test_without_a_key_everybody_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    assert ask("/invocations", made=RequireKey)[0]["status"] == 200
