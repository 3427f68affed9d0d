"""Asking the served model: against a real HTTP server that answers well, wrongly, or not at all."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterctl.facts.fact import Unknown
from clusterctl.status import server
from tests.unit.support import FIXTURES

METRICS = (FIXTURES / "metrics-vllm-0.32.txt").read_text(encoding="utf-8")


class Api(BaseHTTPRequestHandler):
    answers: ClassVar[dict[str, tuple[int, str]]] = {}
    asked: ClassVar[list[tuple[str, str]]] = []
    delay_s: ClassVar[float] = 0

    def do_GET(self) -> None:
        time.sleep(self.delay_s)
        self.asked.append((self.path, self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()))
        status, text = self.answers.get(self.path, (404, "no such path"))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[httpx.Client]:
    Api.answers, Api.asked, Api.delay_s = {}, [], 0
    http = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    with httpx.Client(base_url=f"http://127.0.0.1:{http.server_port}", trust_env=False) as client:
        yield client
    http.shutdown()
    http.server_close()


def usage(tokens: object) -> str:
    return json.dumps({"choices": [{"text": ""}], "usage": {"completion_tokens": tokens}})


def test_a_completion_is_one_real_token_of_the_served_model(api: httpx.Client) -> None:
    Api.answers["/v1/completions"] = (200, usage(1))
    found = server.complete(api, "tiny")
    assert isinstance(found, server.Completion)
    assert found.tokens == 1
    ((path, body),) = Api.asked
    assert path == "/v1/completions"
    assert json.loads(body)["model"] == "tiny"
    assert json.loads(body)["max_tokens"] == 1


@pytest.mark.parametrize(
    ("status", "text", "reason"),
    [
        (500, '{"error": "EngineDeadError"}', "HTTP 500"),
        (404, '{"message": "The model `tiny` does not exist."}', "does not exist"),
        (401, '{"error": "Unauthorized"}', "HTTP 401"),
        (200, usage(0), "without a token"),
        (200, '{"choices": []}', "no completion"),
        (200, '{"usage": null}', "no completion"),
        (200, "[]", "no completion"),
        (200, usage("many"), "no completion"),
        (200, usage(None), "no completion"),
        (200, "<html>captive portal</html>", "no completion"),
        (200, "", "no completion"),
    ],
)
def test_anything_else_is_no_completion_with_the_reason(api: httpx.Client, status: int, text: str, reason: str) -> None:
    Api.answers["/v1/completions"] = (status, text)
    found = server.complete(api, "tiny")
    assert isinstance(found, Unknown)
    assert reason in found.reason


def test_nobody_listens() -> None:
    with httpx.Client(base_url="http://127.0.0.1:9", trust_env=False) as client:
        for found in (server.complete(client, "tiny"), server.health(client), server.metrics(client)):
            assert isinstance(found, Unknown)
            assert found.reason


def test_a_server_that_hangs_is_unknown_in_time(api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    Api.delay_s = 1.0
    monkeypatch.setattr(server, "METRICS_TIMEOUT_S", 0.1)
    began = time.monotonic()
    for found in (server.complete(api, "tiny", timeout_s=0.1), server.health(api), server.metrics(api)):
        assert isinstance(found, Unknown)
        assert found.reason
    assert time.monotonic() - began < 1


def test_health_is_the_status_alone(api: httpx.Client) -> None:
    Api.answers["/health"] = (503, "")
    assert server.health(api) == 503


def test_metrics_of_a_real_server(api: httpx.Client) -> None:
    Api.answers["/metrics"] = (200, METRICS)
    assert server.metrics(api) == server.Metrics(0, 0, 0, generation_tokens_total=2, prompt_tokens_total=10)


def test_metrics_are_summed_over_engines_but_a_fraction_stays_one() -> None:
    more = (
        METRICS.replace('engine="0"', 'engine="1"') + '\nvllm:kv_cache_usage_perc{engine="2",model_name="a}b c"} 0.75\n'
    )
    found = server.parse_metrics(METRICS + more)
    assert isinstance(found, server.Metrics)
    assert found.generation_tokens_total == 4
    assert found.kv_cache_usage == 0.75


@pytest.mark.parametrize("text", ["", "# HELP x\n", METRICS.replace("kv_cache_usage_perc", "renamed"), "vllm:num_requests_running x"])  # fmt: skip # noqa: E501
def test_metrics_that_are_not_there_are_unknown_not_zero(text: str) -> None:
    assert isinstance(server.parse_metrics(text), Unknown)


@given(st.lists(st.tuples(st.sampled_from(["vllm:num_requests_running", "vllm:x", "#"]), st.text(max_size=10))))
def test_metrics_never_raise(rows: list[tuple[str, str]]) -> None:
    server.parse_metrics(METRICS + "\n".join(f'{name}{{a="b"}} {value}' for name, value in rows))
