"""The middleware in vLLM's API server, as an ASGI server calls it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from clusterctl.agent import clusterctl_middleware
from clusterctl.agent.clusterctl_middleware import RefuseWhileDraining


def ask(path: str, kind: str = "http") -> list[dict[str, Any]]:
    """What is sent back; the app behind says 200."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(dict(message))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    asyncio.run(RefuseWhileDraining(app)({"type": kind, "path": path}, None, send))
    return sent


def test_new_requests_are_refused_only_while_it_drains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flag = tmp_path / "draining"
    monkeypatch.setattr(clusterctl_middleware, "DRAINING", flag)
    assert [message["status"] for message in ask("/v1/completions")] == [200]
    flag.touch()
    start, body = ask("/v1/completions")
    assert start["status"] == 503
    assert (b"retry-after", b"30") in start["headers"]
    assert "stopped or restarted" in json.loads(body["body"])["error"]["message"]
    assert ask("/metrics")[0]["status"] == 200
    assert ask("/", kind="lifespan")[0]["status"] == 200
