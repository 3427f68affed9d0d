"""What the agent asks its server: a completion, its metrics, whether a request is running."""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .journal import STATE_DIR
from .unavailable import ANSWERS_AS

METRICS_TIMEOUT_S = 5
PROGRESS = re.compile(
    r"^vllm:(?:iteration_tokens_total_count|generation_tokens_total|prompt_tokens_total)(\{.*\})? (\S+)$",
    re.MULTILINE,
)
"""Counters that only a working engine moves (/metrics, vLLM 0.32). Counters of requests also move when clients give
up on a dead one."""

BUSY = "busy-*"
"""Files by which API processes say that they answer requests: busy-PID (clusterctl_middleware.py). The engine's own
count (/metrics) is made after a step, and knows nothing of a request that came meanwhile, or is being tokenized."""
REQUESTS = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{.*\})? (\S+)$", re.MULTILINE)


ENGINE_HEADER = "X-data-parallel-rank"
"""The engine that a request is for (vLLM 0.32, `_get_data_parallel_rank` in entrypoints/generate/base/serving.py).
Without it the server balances, and an engine that hangs goes unnoticed beside one that answers."""


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    text: str


def ask(
    server: Mapping[str, Any], method: str, path: str, body: object, timeout_s: float, *, engine: int | None = None
) -> Answer:
    """Ask the server on this node, or one of its engines.

    Raises OSError (TimeoutError at the deadline, ConnectionRefusedError when only the agent itself answers there) or
    HTTPException.
    """
    host, port = server["endpoint_host"], server["endpoint_port"]
    if server.get("tls"):
        # The agent's own child, on this node's own address: nothing leaves the machine. The certificate is not looked
        # at, since a file that was renewed, or has expired, is no reason to end a server that works.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=timeout_s, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    headers = {"Content-Type": "application/json"}
    if key := server.get("key"):
        headers["Authorization"] = f"Bearer {key}"
    if engine is not None:
        headers[ENGINE_HEADER] = str(engine)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        if response.getheader("Server") == ANSWERS_AS:
            raise ConnectionRefusedError("no server listens on the API's port")
        return Answer(response.status, response.read().decode(errors="replace"))
    finally:
        connection.close()


def api_key(server: Mapping[str, Any]) -> str | None:
    """The key that the API asks for; None without one (no file, or an empty one)."""
    path = server.get("api_key_file")
    try:
        return (Path(path).read_text().strip() or None) if path else None
    except OSError:
        return None


def complete_one_token(server: Mapping[str, Any], timeout_s: float, engine: int | None = None) -> int:
    """Ask for one token, of one engine where there are several; return how many came.

    Raises OSError, HTTPException or ValueError (with the answer).
    """
    body = {"model": server["model"], "prompt": "Hello", "max_tokens": 1, "temperature": 0, "ignore_eos": True}
    status, answer = ask(server, "POST", "/v1/completions", body, timeout_s, engine=engine)
    if status != 200:
        raise ValueError(f"HTTP {status}: {answer[:500]}")
    tokens = int((json.loads(answer).get("usage") or {}).get("completion_tokens") or 0)
    if tokens < 1:
        raise ValueError(f"the answer holds no token: {answer[:500]}")
    return tokens


def progress(server: Mapping[str, Any], timeout_s: float, engine: int | None = None) -> float | None:
    """How far that engine, or all, has come since its start, in no unit; None when the server does not say."""
    try:
        status, text = ask(server, "GET", "/metrics", None, timeout_s)
        return progress_in(text, engine) if status == 200 else None
    except (OSError, http.client.HTTPException, ValueError):
        return None


def progress_in(text: str, engine: int | None = None) -> float | None:
    """The same, of an answer to /metrics. ValueError for what is no number."""
    of_engine = f'engine="{engine}"' if engine is not None else ""
    values = [float(value) for labels, value in PROGRESS.findall(text) if of_engine in labels]
    return sum(values) if values else None


def requests_running(server: Mapping[str, Any]) -> bool:
    """Whether a request is being answered: the middleware says so, or the engine. Not to know is no "no", as long as
    there is a server: who waits has a deadline."""
    for busy in STATE_DIR.glob(BUSY):
        if Path("/proc", busy.name.rpartition("-")[2]).exists():
            return True
    try:
        status, text = ask(server, "GET", "/metrics", None, METRICS_TIMEOUT_S)
        return status != 200 or any(float(value) for value in REQUESTS.findall(text))
    except ConnectionRefusedError:
        return False
    except (OSError, http.client.HTTPException, ValueError):
        return True
