"""Runs in vLLM's API server (`vllm serve --middleware`): while the agent drains it, new requests are refused.

vLLM's own draining (--shutdown-timeout, 0.32) does not work with the Ray executor: the engine ends at once on SIGTERM,
and running requests never get an answer (seen in the lab). So the agent lets them end before it sends the signal.
Standard library only; it has the name of a module of ours, since it is imported beside the image's own.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

DRAINING = Path("/run/clusterctl/draining")
"""Exists while the agent drains the server (agent.py)."""
STILL_ANSWERED = ("/health", "/metrics")

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Any, Send], Awaitable[None]]


class RefuseWhileDraining:
    """ASGI middleware: 503 with Retry-After for what comes while the server is about to end."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in STILL_ANSWERED or not DRAINING.exists():
            await self.app(scope, receive, send)
            return
        error = {"message": "the server is being stopped or restarted", "type": "ServiceUnavailable", "code": 503}
        headers = [(b"content-type", b"application/json"), (b"retry-after", b"30")]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({"error": error}).encode()})
