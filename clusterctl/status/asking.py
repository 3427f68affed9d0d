"""Asking the served model for whole answers: what comes back, as it is, or the reason why nothing does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from clusterctl.agent.inside.api import ENGINE_HEADER

REQUEST_S = 120
"""For one answer: it waits its turn behind other clients'."""


class NoOutputError(Exception):
    """The server gave none; `impossible`: the model itself cannot (one without a chat template)."""

    def __init__(self, reason: str, *, impossible: bool = False) -> None:
        super().__init__(reason)
        self.impossible = impossible


@dataclass(frozen=True)
class Asker:
    """Who is asked (status/server.py, api_client), and for which model. Its methods raise NoOutputError."""

    client: httpx.Client
    model: str

    def answer(self, path: str, body: Mapping[str, Any], *, engine: int | None = None) -> Mapping[str, Any]:
        """What a request comes to; `engine`: which of several is asked, by its rank."""
        headers = {} if engine is None else {ENGINE_HEADER: str(engine)}
        try:
            answer = self.client.post(path, json={"model": self.model, **body}, headers=headers, timeout=REQUEST_S)
            said = answer.json() if answer.status_code == httpx.codes.OK else None
        except httpx.HTTPError as error:
            raise NoOutputError(str(error) or type(error).__name__) from error
        except ValueError as error:
            raise NoOutputError("an answer that is no JSON") from error
        if said is None:
            raise _refused(answer)
        if not isinstance(said, Mapping):
            raise NoOutputError("an answer that is no completion")
        return said

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[tuple[float, Mapping[str, Any]]]:
        """The pieces of a streamed answer as they come, each with the seconds since the request was sent."""
        whole = {"model": self.model, **body, "stream": True, "stream_options": {"include_usage": True}}
        began = time.monotonic()
        try:
            with self.client.stream("POST", path, json=whole, timeout=REQUEST_S) as answer:
                if answer.status_code != httpx.codes.OK:
                    answer.read()
                    raise _refused(answer)
                for said in events(answer.iter_lines()):
                    yield time.monotonic() - began, said
        except httpx.HTTPError as error:
            raise NoOutputError(str(error) or type(error).__name__) from error

    def longest(self) -> int | None:
        """Tokens of a request and its answer together that the server takes; None: it does not say."""
        try:
            models = self.client.get("/v1/models", timeout=REQUEST_S).raise_for_status().json()["data"]
            return int(next(each["max_model_len"] for each in models if each["id"] == self.model))
        except (httpx.HTTPError, ValueError, KeyError, TypeError, StopIteration):
            return None


def events(lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    """What a stream of server-sent events says, to its end. Raises NoOutputError for an error in it."""
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        try:
            said = json.loads(data)
        except ValueError as error:
            raise NoOutputError(f"a piece of the stream is no JSON: {data[:100]}") from error
        if not isinstance(said, Mapping) or "error" in said:
            raise NoOutputError(f"the stream ended with an error: {data[:300]}")
        yield said
    raise NoOutputError("the stream broke off")


def _refused(answer: httpx.Response) -> NoOutputError:
    text = answer.text[:300]
    return NoOutputError(f"HTTP {answer.status_code}: {text}", impossible="chat template" in text.lower())
