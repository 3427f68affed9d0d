"""Runs in vLLM's API server (`vllm serve --middleware`): what vLLM itself leaves open or cuts off.

- While the agent drains the server, new requests are refused, and a file says whether others still run. vLLM's own
  draining (--shutdown-timeout, 0.32) does not work with the Ray executor: the engine ends at once on SIGTERM, and
  running requests never get an answer (seen in the lab). So the agent lets them end before it sends the signal.
- The API key guards every path but those of probes. vLLM's own check (0.32, AuthenticationMiddleware) guards /v1, /v2,
  /inference and /cohere; /invocations generates text without a key (F69).

Standard library only; it has the name of a module of ours, since it is imported beside the image's own.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

DRAINING = Path("/run/clusterctl/draining")
"""Exists while the agent drains the server (agent.py), and holds the seconds after which to come back."""
COME_BACK_S = b"30"
"""When it holds none: a disk was full."""
STILL_ANSWERED = ("/health", "/metrics", "/ping")
KEY_VARIABLE = "VLLM_API_KEY"
"""Where vLLM has its key from: the environment, not its arguments, which everybody sees."""
OPEN_PATHS = ("/health", "/metrics", "/ping")
"""What load balancers and Prometheus ask, without a key. They generate nothing and change nothing."""

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Any, Send], Awaitable[None]]


class RefuseWhileDraining:
    """ASGI middleware: 503 with Retry-After for what comes while the server is about to end."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.running = 0

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] not in ("http", "websocket") or scope["path"] in STILL_ANSWERED:
            await self.app(scope, receive, send)
        elif not DRAINING.exists():
            self._count(1)
            try:
                await self.app(scope, receive, send)
            finally:
                self._count(-1)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": TRY_AGAIN_LATER})
        else:
            await _refuse(
                send,
                503,
                "the server is being stopped or restarted",
                "ServiceUnavailable",
                (b"retry-after", _come_back_s()),
            )

    def _count(self, change: int) -> None:
        """One request more, or less; the agent reads whether there is any, of each API process (agent.py, BUSY)."""
        before, self.running = self.running, self.running + change
        if bool(before) == bool(self.running):
            return
        file = DRAINING.with_name(f"busy-{os.getpid()}")
        with suppress(OSError):  # a full disk is no reason to refuse a request
            if self.running:
                file.touch()
            else:
                file.unlink(missing_ok=True)


class RequireKey:
    """ASGI middleware: 401 without the API key, on every path but OPEN_PATHS. Does nothing when there is no key."""

    def __init__(self, app: App) -> None:
        self.app = app
        key = os.environ.get(KEY_VARIABLE, "")
        self.digest = _digest(key.encode()) if key else None

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if self.digest is None or scope["type"] not in ("http", "websocket") or self._may_pass(scope, self.digest):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        else:
            await _refuse(
                send, 401, "the API key is missing or wrong", "Unauthorized", (b"www-authenticate", b"Bearer")
            )

    def _may_pass(self, scope: Scope, digest: bytes) -> bool:
        path, method = scope["path"].removeprefix(scope.get("root_path", "")), scope.get("method")
        # A browser asks with OPTIONS what it may send, before it sends a key.
        if method == "OPTIONS" or (method in ("GET", "HEAD") and path in OPEN_PATHS):
            return True
        for name, value in scope["headers"]:
            scheme, _, given = value.partition(b" ")
            if name == b"authorization" and scheme.lower() == b"bearer":
                return hmac.compare_digest(_digest(given), digest)
        return False


POLICY_VIOLATION, TRY_AGAIN_LATER = 1008, 1013
"""RFC 6455, 7.4.1, and IANA's registry of close codes."""


def _come_back_s() -> bytes:
    with suppress(OSError):
        said = DRAINING.read_bytes().strip()
        return said if said.isdigit() else COME_BACK_S
    return COME_BACK_S


def _digest(key: bytes) -> bytes:
    """Of one length whatever the key's, so that comparing tells nothing of it."""
    return hashlib.sha256(key).digest()


async def _refuse(send: Send, status: int, message: str, kind: str, header: tuple[bytes, bytes]) -> None:
    """Answer with an error in the form of OpenAI's API."""
    error = {"message": message, "type": kind, "param": None, "code": status}
    headers = [(b"content-type", b"application/json"), header]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": error}).encode()})
