"""Outputs of the served model that can be compared later: greedy, each token with its log-probability."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from clusterctl.modes.mode import EnginePlace
from clusterctl.records.outputs import Observed, Token
from clusterctl.records.verification import EngineHealth
from clusterctl.status.asking import Asker, NoOutputError

PROMPT = "The quick brown fox jumps over the lazy dog. Then it"
SENTENCE = "On the way it counts the nodes of the cluster: one, two, three, four, five, six, seven, eight. "
TOKENS = 16
"""Of each answer."""
OTHERS = 5
"""Other tokens that are asked for beside each."""
NEAR = 1.0
"""Noted are those that are at most this much less likely: near ties are far nearer."""
LONG_TOKENS = 2048
"""Of the long prompt, where the model takes as many."""
STREAMED, BURST = 5, 8
"""Requests."""
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@dataclass(frozen=True)
class Answer:
    """One request's."""

    tokens: tuple[Token, ...]
    text: str
    prompt_tokens: int | None
    seconds: float
    first_token_s: float | None = None


def observe(asker: Asker) -> Iterator[Observed]:
    """The five outputs, one after the other."""
    yield _observed("greedy", PROMPT, lambda: [completion(asker, PROMPT)])
    size = max(1, min(LONG_TOKENS, (asker.longest() or LONG_TOKENS) - 2 * TOKENS))
    # A sentence has more tokens than this many, whatever the tokenizer; the server keeps the last ones.
    long = SENTENCE * (size // 8 + 1)
    shown = f"{SENTENCE.strip()} (again and again, cut to {size} tokens)"
    yield _observed("long prompt", shown, lambda: [completion(asker, long, truncate_prompt_tokens=size)])
    yield _observed("chat", f"{PROMPT} (as a chat)", lambda: [chat(asker, PROMPT)])
    yield _observed("streamed", PROMPT, lambda: [streamed(asker, PROMPT) for _ in range(STREAMED)])
    yield burst(asker)


def engine_health(asker: Asker, place: EnginePlace, *, ranked: bool) -> EngineHealth:
    """A completion of one engine, asked for by its rank where there are several."""
    try:
        answer = completion(asker, PROMPT, engine=place.rank if ranked else None)
    except NoOutputError as error:
        return EngineHealth(place.rank, place.nodes, None, str(error))
    return EngineHealth(place.rank, place.nodes, round(answer.seconds, 4), None, answer.tokens)


def completion(asker: Asker, prompt: str, *, engine: int | None = None, **more: Any) -> Answer:
    """A whole answer at once. Raises NoOutputError."""
    began = time.monotonic()
    said = asker.answer(COMPLETIONS, {**_common(), "prompt": prompt, "logprobs": OTHERS, **more}, engine=engine)
    return _read(lambda: _answer(said, completion_tokens(said), time.monotonic() - began))


def chat(asker: Asker, prompt: str) -> Answer:
    """The same by way of the model's chat template. Raises NoOutputError."""
    messages = [{"role": "user", "content": prompt}]
    began = time.monotonic()
    said = asker.answer(CHAT, {**_common(), "messages": messages, "logprobs": True, "top_logprobs": OTHERS})
    return _read(lambda: _answer(said, chat_tokens(said), time.monotonic() - began))


def streamed(asker: Asker, prompt: str) -> Answer:
    """An answer as it comes, with the time of its first token. Raises NoOutputError."""
    pieces = asker.stream(COMPLETIONS, {**_common(), "prompt": prompt, "logprobs": OTHERS})
    return _read(lambda: read_stream(pieces))


def burst(asker: Asker) -> Observed:
    """Several requests at once, whose tokens are computed together: on each engine, where there are several."""
    began = time.monotonic()
    with ThreadPoolExecutor(max_workers=BURST, thread_name_prefix="burst") as pool:
        made = _observed("burst", PROMPT, lambda: list(pool.map(lambda _: completion(asker, PROMPT), range(BURST))))
    return replace(made, wall_s=round(time.monotonic() - began, 4)) if made.answers else made


def read_stream(pieces: Iterator[tuple[float, Mapping[str, Any]]]) -> Answer:
    """A streamed answer from its pieces, each with the seconds at which it came."""
    tokens: list[Token] = []
    text, first, prompt_tokens, seconds = "", None, None, 0.0
    for seconds, said in pieces:
        found = completion_tokens(said) if said["choices"] else []
        if found and first is None:
            first = seconds
        tokens += found
        text += "".join(choice.get("text") or "" for choice in said["choices"])
        prompt_tokens = (said.get("usage") or {}).get("prompt_tokens", prompt_tokens)
    return _whole(Answer(tuple(tokens), text, prompt_tokens, seconds, first))


def completion_tokens(said: Mapping[str, Any]) -> list[Token]:
    """The tokens of an answer, or of a piece of one, of /v1/completions."""
    found = said["choices"][0].get("logprobs")
    if found is None:
        return []
    likely = found.get("top_logprobs") or [None] * len(found["tokens"])
    return [
        _token(token, logprob, each or {})
        for token, logprob, each in zip(found["tokens"], found["token_logprobs"], likely, strict=True)
    ]


def chat_tokens(said: Mapping[str, Any]) -> list[Token]:
    """The tokens of an answer of /v1/chat/completions."""
    return [
        _token(
            each["token"],
            each["logprob"],
            {other["token"]: other["logprob"] for other in each.get("top_logprobs") or ()},
        )
        for each in said["choices"][0]["logprobs"]["content"]
    ]


def _common() -> dict[str, Any]:
    """Of every request. The salt keeps it from what earlier ones left in the prefix cache, which would make it faster
    and round otherwise; servers that do not know it ignore it. Tokens are named by number, as their texts are not
    unambiguous: parts of characters, and special tokens, all are empty."""
    salt = secrets.token_hex(8)
    common = {"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "cache_salt": salt}
    return {**common, "return_tokens_as_token_ids": True}


def _read(read: Callable[[], Answer]) -> Answer:
    try:
        return read()
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise NoOutputError(f"an answer that is no completion with log-probabilities ({error!r})") from error


def _answer(said: Mapping[str, Any], tokens: Sequence[Token], seconds: float) -> Answer:
    choice = said["choices"][0]
    text = choice["text"] if "text" in choice else choice["message"]["content"]
    return _whole(Answer(tuple(tokens), text or "", int(said["usage"]["prompt_tokens"]), seconds))


def _whole(answer: Answer) -> Answer:
    if len(answer.tokens) < TOKENS:
        raise NoOutputError(f"{len(answer.tokens)} tokens with log-probabilities, not {TOKENS}")
    return answer


def _observed(name: str, prompt: str, ask: Callable[[], Sequence[Answer]]) -> Observed:
    try:
        answers = ask()
    except NoOutputError as error:
        return Observed(name, prompt, None, "", (), (), reason=str(error), impossible=error.impossible)
    return Observed(
        name=name,
        prompt=prompt,
        prompt_tokens=answers[0].prompt_tokens,
        text=answers[0].text,
        answers=tuple(answer.tokens for answer in answers),
        seconds=tuple(round(answer.seconds, 4) for answer in answers),
        first_token_s=tuple(round(each.first_token_s, 4) for each in answers if each.first_token_s is not None),
    )


def _token(token: str, logprob: float, likely: Mapping[str, float]) -> Token:
    near = {other: round(float(said), 5) for other, said in likely.items() if other != token and logprob - said <= NEAR}
    return Token(token, round(float(logprob), 5), near)
