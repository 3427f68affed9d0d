"""Secrets out of text: values that are known, in every form in which they are written down, and shapes that only
secrets have. Pure.

Nothing is hidden for its length alone: what is left must stay readable, for it is evidence. So a known value that is
short (`SHORT` characters) is hidden only behind a name that a secret has.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from clusterctl.secrets.names import SETTING, WORDS, may_be_secret

MASK = "***"


SHORT = 6
"""Known values with fewer characters than this are hidden only behind a name."""


SHORTEST_LINE = 12
"""Characters of one line of a value with several lines (a key in PEM form) that are hidden by themselves."""


_NO_VALUE = r"(?!(?:None|null|[Tt]rue|[Ff]alse)\b|\*\*\*)"


_OPTIONS = r"--(?:api-key|(?:hf|auth|access|api|ray-auth)-token|token|password|secret)"


_OPTION = re.compile(_OPTIONS)


# (pattern, what stays). Those over several lines (a list as JSON among them) have a bound, so that none is quadratic.
_LONG_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, flags), kept)
    for pattern, flags, kept in (
        # Private keys in PEM form: whole, without their end (a log that was cut), and without their beginning.
        (
            r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?:(?!-----BEGIN).){0,20000}?-----END [A-Z0-9 ]*PRIVATE KEY-----",
            re.DOTALL,
            MASK,
        ),
        (
            r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?:(?:\s|\\[nr])*+[A-Za-z0-9+/]{16,}+={0,2})*+"
            r"(?:(?:\s|\\[nr])*+[A-Za-z0-9+/]{1,15}={1,2})?",
            0,
            MASK,
        ),
        (r"\A[A-Za-z0-9+/=\s]*-----END [A-Z0-9 ]*PRIVATE KEY-----", 0, MASK),
        # Options of command lines, as a line and as a list: --api-key X, "--api-key", "X".
        (
            rf"({_OPTIONS}[\"']?(?:\s*,\s*|=|\s+)[\"']?)"
            r"(?!-)" + _NO_VALUE + r"[^\s\"',\]]+",
            0,
            rf"\1{MASK}",
        ),
    )
)


_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), kept)
    for pattern, kept in (
        # Headers: `Authorization: Bearer …`, "authorization": "Basic …", curl -H; and a token after `Bearer` anywhere.
        (
            r"((?i:authorization)[\"']?\s?[=:]\s?[\"']?(?:(?i:bearer|basic|token)\s+)?)" + _NO_VALUE + r"[^\s\"',;]+",
            rf"\1{MASK}",
        ),
        (r"\b((?i:bearer)\s+)(?=[A-Za-z._~+/-]*\d)[A-Za-z0-9._~+/=-]{6,}", rf"\1{MASK}"),
        # Settings: 'api_key': ['…', '…'] (vLLM 0.32 logs its arguments so), api_key=…, "HF_TOKEN": "…", password: ….
        (
            rf"({SETTING}[\"']?\s?[=:]\s?)"
            rf"(?:[\[(][^\])\n]+[\])]|([\"']){_NO_VALUE}(?:(?!\2)[^\\\n]|\\.)+\2|(?![\"'\[(]){_NO_VALUE}[^\s\"',;&)\]}}]+)",
            rf"\1\2{MASK}\2",
        ),
        # What is a secret wherever it stands: Hugging Face, OpenAI and those who took its form, NVIDIA, GitHub, GitLab,
        # AWS, Slack, JSON Web Tokens.
        (r"(?<![A-Za-z0-9])hf_(?:(?=[A-Za-z]*\d)[A-Za-z0-9]{8,}|[A-Za-z]{24,})", MASK),
        (r"(?<![A-Za-z0-9])sk-(?:(?=[A-Za-z_-]*\d)[\w-]{8,}|[A-Za-z_-]{20,})", MASK),
        (r"(?<![A-Za-z0-9])(?:nvapi-|glpat-|gh[pousr]_|github_pat_|xox[abprs]-)[\w-]{10,}", MASK),
        (r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])", MASK),
        (r"(?<![\w-])eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+", MASK),
        # user:password@ in a URL (proxies, package indexes).
        (r"(://[^\s/@:\"']*:)" + _NO_VALUE + r"[^\s/@\"']+(?=@)", rf"\1{MASK}"),
    )
)


_HINTS = (
    *WORDS.lower().split("|"),
    *("auth", "bearer", "://", "hf_", "sk-", "nvapi-", "glpat-", "ghp_"),
    *("gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "xox", "akia", "asia", "eyj"),
)
"""Without one of them (in lower case) no line has one of _SHAPES: 20 MB of a log in 2 s instead of 10."""


def masked(value: Any) -> Any:
    """A tree of JSON values without the texts whose name is a secret's, also in lists of NAME=value or arguments."""
    if isinstance(value, Mapping):
        return {
            key: MASK if isinstance(item, str) and item and may_be_secret(str(key)) else masked(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        before = [None, *value]
        return [
            MASK if isinstance(item, str) and isinstance(option, str) and _OPTION.fullmatch(option) else masked(item)
            for option, item in zip(before, value, strict=False)
        ]
    if isinstance(value, str):
        name, equals, rest = value.partition("=")
        return f"{name}={MASK}" if equals and rest and re.fullmatch(r"\w+", name) and may_be_secret(name) else value
    return value


def secret_values(value: Any) -> Iterator[str]:
    """The texts in a tree of JSON values (inspect's answer, an inventory, a spec) whose name is a secret's."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(item, str) and may_be_secret(str(key)):
                yield item
            else:
                yield from secret_values(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from secret_values(item)
    elif isinstance(value, str):
        name, equals, rest = value.partition("=")
        if equals and re.fullmatch(r"\w+", name) and may_be_secret(name):
            yield rest


class Redactor:
    """Takes known secrets and everything that looks like one out of text. Frozen once made; safe between threads.

    Whole texts only: a secret must not be cut by what cuts the text. Frames of a log are put together first, and a log
    that is too long is cut between lines.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {found for secret in secrets if (found := secret.strip()) and not set(found) <= set("*")}
        long = {secret for secret in known if len(secret) >= SHORT}
        lines = {line.strip() for secret in long for line in secret.splitlines() if len(line.strip()) >= SHORTEST_LINE}
        forms = {form for secret in long | lines for form in _forms(secret)}
        # The longest first: a form may be part of another.
        self._forms = tuple(sorted(forms, key=lambda form: (-len(form), form)))
        short = "|".join(re.escape(secret) for secret in sorted(known - long, key=lambda each: (-len(each), each)))
        # Nothing before the word: a pattern that begins with any number of letters is quadratic on a long word.
        word = rf"(?i:{WORDS})[\w-]{{0,40}}"
        named = rf"({word}[\"']?(?:\s{{0,2}}[=:]\s{{0,2}}|\s)[\"']?)"
        self._short = re.compile(rf"{named}(?:{short})(?!\w)") if short else None

    def __repr__(self) -> str:
        return f"Redactor({MASK})"

    def text(self, text: str) -> str:
        """The text without secrets."""
        for form in self._forms:
            text = text.replace(form, MASK)
        if self._short is not None:
            text = self._short.sub(rf"\1{MASK}", text)
        for shape, kept in _LONG_SHAPES:
            text = shape.sub(kept, text)
        return "".join(_without_shapes(line) for line in text.splitlines(keepends=True))

    def data(self, data: bytes) -> bytes:
        """The same of bytes; those that are no UTF-8 stay as they are."""
        return self.text(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    def json(self, value: Any) -> str:
        """A tree of JSON values as text that still is JSON, without secrets: each text in it is cleared by itself."""
        # Through JSON first, so that what json makes a text (dates, enumerations) is one before it is looked at.
        plain = json.loads(json.dumps(_with_text_keys(value), default=str))
        return json.dumps(self._tree(masked(plain)), indent=2, ensure_ascii=False) + "\n"

    def _tree(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self.text(key): self._tree(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._tree(item) for item in value]
        return self.text(value) if isinstance(value, str) else value


def _with_text_keys(value: Any) -> Any:
    """The same tree, its keys as texts: json turns values into texts (`default`), and refuses keys that are none."""
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_text_keys(item) for item in value]
    return value


def _without_shapes(line: str) -> str:
    lower = line.lower()
    if any(hint in lower for hint in _HINTS):
        for shape, kept in _SHAPES:
            line = shape.sub(kept, line)
    return line


def _forms(secret: str) -> Iterator[str]:
    """Every form in which a value is written down."""
    yield secret
    for ascii_only in (True, False):
        once = json.dumps(secret, ensure_ascii=ascii_only)[1:-1]
        yield once
        yield json.dumps(once, ensure_ascii=ascii_only)[1:-1]  # an event that quotes a line that is JSON
    yield repr(secret)[1:-1]
    yield shlex.quote(secret)[1:-1] if shlex.quote(secret) != secret else secret
    for quoted in (quote(secret, safe=""), quote(secret), quote_plus(secret)):
        yield quoted
        yield re.sub(r"%[0-9A-F]{2}", lambda escape: escape[0].lower(), quoted)
    raw = secret.encode("utf-8", "surrogateescape")
    yield from _base64(raw)


def _base64(raw: bytes) -> Iterator[str]:
    """The bytes in base64, by themselves and as part of something longer: what does not depend on its neighbours.

    Base64 writes three bytes as four characters, so there are three ways in which a value can lie in it.
    """
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(raw).decode()
        for before in range(3):
            whole = encode(b"\0" * before + raw).decode().rstrip("=")
            # Without the characters that also hold bits of what stands before or behind.
            first = (before * 8 + 5) // 6
            last = (before + len(raw)) * 8 // 6
            yield whole[first:last]
