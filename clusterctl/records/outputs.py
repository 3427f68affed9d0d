"""Outputs of the model as they were observed, and how far two of them are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Token:
    """One token of an answer."""

    id: str
    """token_id:NUMBER, as vLLM calls it: texts are not unambiguous."""
    logprob: float
    others: Mapping[str, float]
    """The likeliest other tokens -> log-probability."""

    def of(self, token: str) -> float | None:
        """Log-probability of a token in its place, where it is known."""
        return self.logprob if token == self.id else self.others.get(token)


@dataclass(frozen=True)
class Observed:
    """What came of one kind of request."""

    name: str
    """greedy, long prompt, chat, streamed, burst."""
    prompt: str
    """What was asked, shortened."""
    prompt_tokens: int | None
    """Of the first request, as the server counted them."""
    text: str
    """The first answer's."""
    answers: tuple[tuple[Token, ...], ...]
    """Of each request, in the order in which they were made."""
    seconds: tuple[float, ...]
    """Of each request, from here and back."""
    first_token_s: tuple[float, ...] = ()
    """Seconds to the first token, where answers were streamed."""
    wall_s: float | None = None
    """Of all requests together, where they were made at once."""
    reason: str | None = None
    """Why there is no output; None where there is."""
    impossible: bool = False
    """Whether the model itself cannot do it (a model without a chat template), so that its lack is no fault."""

    @property
    def tokens(self) -> int:
        """Of all answers."""
        return sum(len(answer) for answer in self.answers)


@dataclass(frozen=True)
class Apart:
    """How far two answers are apart."""

    compared: int
    """Tokens that both have at the same place, up to the first that differs."""
    greatest: float
    """Greatest difference of their log-probabilities (natural logarithm)."""
    parted: tuple[int, str, str, float] | None
    """Where they part: place, old and new token, and by how much the older answer preferred its own; infinite where
    that is not known to be a near tie. None where they do not."""


def apart(old: Sequence[Token], new: Sequence[Token]) -> Apart:
    """Token by token. Behind the first token that differs nothing can be compared: the texts go on from other words."""
    greatest = 0.0
    for place, (one, other) in enumerate(zip(old, new, strict=False)):
        both = [(one.of(token), other.of(token)) for token in dict.fromkeys((one.id, other.id))]
        greatest = max(
            [greatest, *(abs(before - now) for before, now in both if before is not None and now is not None)]
        )
        if one.id != other.id:
            return Apart(place, greatest, (place, one.id, other.id, _gap(one, other)))
    shorter = min(len(old), len(new))
    if len(old) != len(new):
        return Apart(shorter, greatest, (shorter, _at(old, shorter), _at(new, shorter), float("inf")))
    return Apart(shorter, greatest, None)


def _gap(old: Token, new: Token) -> float:
    """By how much each answer preferred its own token to the other's: the greater of both."""
    gaps = []
    for mine, theirs in ((old, new), (new, old)):
        other = mine.of(theirs.id)
        gaps.append(float("inf") if other is None else abs(mine.logprob - other))
    return max(gaps)


def _at(answer: Sequence[Token], place: int) -> str:
    return answer[place].id if place < len(answer) else "(end)"
