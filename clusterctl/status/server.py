"""Asking the served model, over SSH to the head: with its key and certificate, health, a real completion, metrics."""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from clusterctl.agent.inside.api import ENGINE_HEADER
from clusterctl.agent.paths import ANSWERS_AS, container_name
from clusterctl.facts.api_key import held_api_key
from clusterctl.facts.fact import Unknown
from clusterctl.hosts.host import Host, Hosts
from clusterctl.hosts.ssh.errors import HostError
from clusterctl.inventory.endpoint import tls_certfile
from clusterctl.inventory.model import Inventory
from clusterctl.modes.engines import EngineStatus
from clusterctl.modes.mode import EnginePlace

COMPLETION_TIMEOUT_S = 60


METRICS_TIMEOUT_S = 5


VLLM = "vllm:"
"""How the names of vLLM's metrics begin."""


@dataclass(frozen=True)
class Completion:
    """A completion that came back with at least one token."""

    tokens: int
    latency_s: float


@dataclass(frozen=True)
class Metrics:
    """vLLM's own gauges and counters (/metrics, names as of vLLM 0.32), summed over engines."""

    requests_running: float
    requests_waiting: float
    kv_cache_usage: float
    """Fraction of the KV cache in use, 0 to 1; of the fullest engine."""
    generation_tokens_total: float
    prompt_tokens_total: float


@dataclass(frozen=True)
class EngineLoad:
    """One engine's gauges."""

    requests_running: float
    requests_waiting: float
    kv_cache_usage: float


class _CannotAsk(httpx.BaseTransport):
    """Ends every request with the reason why none can be made."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(self._reason, request=request)


def api_client(hosts: Hosts, inventory: Inventory, endpoint: str) -> httpx.Client:
    """A client of the cluster's API at this base URL, through the connection to the head, ready to ask.

    The API key and the TLS certificate are those in the head's container, so that what really runs is asked, from
    whichever machine; no key is sent where the container holds none. When they cannot be read, every request ends with
    the reason, as it does when the API cannot be reached. A context manager. Raises ConnectError without the head.
    """
    head, container = hosts.head, container_name(inventory.cluster)
    certfile = tls_certfile(inventory)
    try:
        key = held_api_key(head, container)
        certificate = _certificate(head, container, certfile) if certfile is not None else None
        client = head.http(endpoint, timeout_s=inventory.timeouts.command_s, key=key, certificate=certificate)
    except (HostError, ValueError) as error:
        return httpx.Client(base_url=endpoint, transport=_CannotAsk(str(error)))
    return of_the_server(client)


def of_the_server(client: httpx.Client) -> httpx.Client:
    """A client to which the agent's answers in the server's place are none: as if the port were closed."""
    client.event_hooks = {"response": [_refuse_the_agents]}
    return client


def _refuse_the_agents(answer: httpx.Response) -> None:
    if answer.headers.get("Server") == ANSWERS_AS:
        raise httpx.ConnectError("no server listens yet: the agent answers on the API's port", request=answer.request)


def _certificate(head: Host, container: str, path: str) -> bytes:
    """The certificate file in the container. ValueError when it is not there."""
    content = head.engine.read_file(container, path)
    if content is None:
        raise ValueError(f"no {path} in the head's container (serve.options ssl-certfile), so nothing can be trusted")
    return content


def complete(
    client: httpx.Client, model: str, *, timeout_s: float = COMPLETION_TIMEOUT_S, engine: int | None = None
) -> Completion | Unknown:
    """One real token from the model within so many seconds, or why there is none; from this engine, or from any."""
    started = time.monotonic()
    body = {"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0, "ignore_eos": True}
    headers = {} if engine is None else {ENGINE_HEADER: str(engine)}
    try:
        answer = client.post("/v1/completions", json=body, timeout=timeout_s, headers=headers)
        answer.raise_for_status()
        tokens = int(answer.json()["usage"]["completion_tokens"])
    except httpx.HTTPStatusError as error:
        return Unknown(f"HTTP {error.response.status_code}: {error.response.text[:300]}")
    except httpx.HTTPError as error:
        return Unknown(str(error) or type(error).__name__)
    except (ValueError, KeyError, TypeError) as error:
        return Unknown(f"an answer that is no completion ({error!r})")
    if tokens < 1:
        return Unknown("an answer without a token")
    return Completion(tokens, round(time.monotonic() - started, 3))


def health(client: httpx.Client) -> int | Unknown:
    """HTTP status of /health. 200 says little (it stays 200 while generation is dead), 503 says the engine died."""
    try:
        return client.get("/health", timeout=METRICS_TIMEOUT_S).status_code
    except httpx.HTTPError as error:
        return Unknown(str(error) or type(error).__name__)


def metrics(client: httpx.Client) -> Metrics | Unknown:
    """The gauges and counters that `status` shows."""
    text = _metrics_text(client)
    return text if isinstance(text, Unknown) else parse_metrics(text)


def engine_loads(client: httpx.Client) -> Mapping[int, EngineLoad]:
    """What each engine does, by its rank; nothing of those that do not say."""
    text = _metrics_text(client)
    return {} if isinstance(text, Unknown) else parse_engine_loads(text)


def with_loads(
    places: Iterable[EnginePlace], held: Mapping[int, tuple[str, ...]], loads: Mapping[int, EngineLoad]
) -> tuple[EngineStatus, ...]:
    """The engines, on the nodes where they are seen (`held`) or planned, with what they do where that is known."""
    return tuple(_with_load(place.rank, held.get(place.rank, place.nodes), loads.get(place.rank)) for place in places)


def _with_load(rank: int, nodes: tuple[str, ...], load: EngineLoad | None) -> EngineStatus:
    if load is None:
        return EngineStatus(rank, nodes)
    return EngineStatus(rank, nodes, int(load.requests_running), int(load.requests_waiting), load.kv_cache_usage)


def _metrics_text(client: httpx.Client) -> str | Unknown:
    try:
        answer = client.get("/metrics", timeout=METRICS_TIMEOUT_S)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        return Unknown(str(error) or type(error).__name__)
    return answer.text


def _samples(text: str) -> list[Sample]:
    """vLLM's own samples that are numbers. Raises ValueError for what is not Prometheus' text format."""
    families = text_string_to_metric_families(text)
    samples = (sample for family in families for sample in family.samples)
    return [each for each in samples if each.name.startswith(VLLM) and math.isfinite(each.value)]


def parse_engine_loads(text: str) -> Mapping[int, EngineLoad]:
    """Each engine's gauges in the Prometheus text format; engines of which one is missing are left out.

    vLLM labels them with the engine's rank, also where there is one (0.32).
    """
    found: dict[int, dict[str, float]] = defaultdict(dict)
    try:
        samples = _samples(text)
    except ValueError:
        return {}
    for sample in samples:
        if re.fullmatch("[0-9]{1,6}", engine := sample.labels.get("engine", "")):
            found[int(engine)][sample.name.removeprefix(VLLM)] = sample.value
    wanted = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    return {
        engine: EngineLoad(*(values[name] for name in wanted))
        for engine, values in sorted(found.items())
        if all(name in values for name in wanted)
    }


def parse_metrics(text: str) -> Metrics | Unknown:
    """Pick what is shown from the Prometheus text format."""
    samples: dict[str, list[float]] = defaultdict(list)
    try:
        for sample in _samples(text):
            samples[sample.name].append(sample.value)
    except ValueError as error:
        return Unknown(f"/metrics holds what is no sample: {error}")
    shown = ("num_requests_running", "num_requests_waiting", "generation_tokens_total", "prompt_tokens_total")
    if absent := [name for name in (*shown, "kv_cache_usage_perc") if not samples[f"{VLLM}{name}"]]:
        return Unknown(f"/metrics has no {VLLM}{absent[0]}")
    running, waiting, generated, prompted = (sum(samples[f"{VLLM}{name}"]) for name in shown)
    return Metrics(running, waiting, max(samples[f"{VLLM}kv_cache_usage_perc"]), generated, prompted)
